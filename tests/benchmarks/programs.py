"""Rows about whole programs: how soon they answer, and the article's script beside ours."""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from processes import condgen, python, usage
from ratios import Ratio, alternate
from rows import NO_SCORES, Row, Settings, run_of, train_seconds

ARTICLES_LOSS = 0.71  # the validation loss with which it ends


def starting(settings: Settings) -> Iterator[Row]:
    """How long one waits for an answer, over how long the libraries take to be imported."""
    run = settings.trained("base")
    imports = python("-c", "import lightning.pytorch.cli, torchvision")
    drawing = ("predict", "--ckpt_path", str(run), "--data.samples_per_label", "1", "--predictions.overwrite", "true")
    for name, arguments, at_most in (
        ("condgen --version", ("--version",), 0.1),
        ("condgen --help", ("--help",), 0.1),
        ("condgen fit --help", ("fit", "--help"), 1.15),
        ("condgen predict of 10 samples", drawing, 1.5),
    ):
        ratio = alternate(
            lambda arguments=arguments: usage(condgen(*arguments), settings.folder).seconds,
            lambda: usage(imports, settings.folder).seconds,
            settings.pairs,
        )
        yield Row(f"{name} / importing the libraries", ratio, at_most=at_most)


def the_article(settings: Settings) -> Iterator[Row]:
    """The article's recipe, as it is and by us, from the start of the program to its end; and the way to its loss."""
    if settings.article is None:
        return
    time_of, memory_of, until = Ratio(), Ratio(), Ratio()
    for _ in range(settings.pairs):
        folder = Path(tempfile.mkdtemp(dir=settings.folder))
        (folder / "data").symlink_to(settings.data)
        article = usage(python(str(settings.article)), folder)
        ours = usage(settings.fit("base", *NO_SCORES), settings.folder)
        time_of.of_pairs.append(article.seconds / ours.seconds)
        memory_of.of_pairs.append(ours.peak_bytes / article.peak_bytes)
        usage(fast := settings.fit("fast"), settings.folder)
        until.of_pairs.append(until_loss(article.lines) / (train_seconds(fast) if reaches(fast) else float("inf")))
    yield Row("five epochs of the DNN: the article's wall time / ours", time_of, at_least=2.2)
    yield Row("their peak memory: ours / the article's", memory_of, at_most=1.25)
    yield Row(f"training until val_loss ≤ {ARTICLES_LOSS:.4f}: the article's time / fast.yaml's", until, at_least=30)


def until_loss(lines: list[tuple[float, str]]) -> float:
    """Seconds from the start of the article's training to its loss, or to its last epoch's end."""
    began = next(seconds for seconds, line in lines if line.startswith("训练开始"))
    losses = [(seconds, re.search(r"validation loss:([\d.]+)", line)) for seconds, line in lines]
    epochs = [(seconds, float(loss[1])) for seconds, loss in losses if loss]
    reached = next((seconds for seconds, loss in epochs if loss <= ARTICLES_LOSS), epochs[-1][0])
    return reached - began


def reaches(fit: list[str]) -> bool:
    """Whether the last validation of the run of a command of :meth:`Settings.fit` was at the article's loss."""
    with open(run_of(fit) / "metrics.csv", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    return losses[-1] <= ARTICLES_LOSS
