"""Rows about whole programs: the start-up time of commands, and condgen compared with the article's script."""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from processes import condgen, python, usage
from ratios import Ratio, alternate
from rows import NO_SCORES, Row, Settings, run_of, train_seconds

ARTICLES_LOSS = 0.71  # the final validation loss of the article's script


def startup(settings: Settings) -> Iterator[Row]:
    """The time of short commands, relative to importing the libraries."""
    run = settings.trained("base")
    imports = python("-c", "import lightning.pytorch.cli, torchvision")
    predict = ("predict", "--ckpt_path", str(run), "--data.samples_per_label", "1", "--predictions.overwrite", "true")
    for name, arguments, at_most in (
        ("condgen --version", ("--version",), 0.1),
        ("condgen --help", ("--help",), 0.1),
        ("condgen fit --help", ("fit", "--help"), 1.15),
        ("condgen predict of 10 samples", predict, 1.5),
    ):
        ratio = alternate(
            lambda arguments=arguments: usage(condgen(*arguments), settings.folder).seconds,
            lambda: usage(imports, settings.folder).seconds,
            settings.pairs,
        )
        yield Row(f"{name}: time / time to import the libraries", ratio, at_most=at_most)


def article(settings: Settings) -> Iterator[Row]:
    """The article's training by its own script and by condgen: wall time, peak memory, and time to its final loss."""
    if settings.article is None:
        return
    time_ratio, memory_ratio, time_to_loss = Ratio(), Ratio(), Ratio()
    for _ in range(settings.pairs):
        folder = Path(tempfile.mkdtemp(dir=settings.folder))
        (folder / "data").symlink_to(settings.data)
        script = usage(python(str(settings.article)), folder)
        base = usage(settings.fit("base", *NO_SCORES), settings.folder)
        time_ratio.values.append(script.seconds / base.seconds)
        memory_ratio.values.append(base.peak_bytes / script.peak_bytes)
        usage(fast := settings.fit("fast"), settings.folder)
        fast_seconds = train_seconds(fast) if reaches_loss(fast) else float("inf")
        time_to_loss.values.append(seconds_to_loss(script.lines) / fast_seconds)
    yield Row("five epochs of the DNN: the article's wall time / condgen's", time_ratio, at_least=2.2)
    yield Row("five epochs of the DNN: condgen's peak memory / the article's", memory_ratio, at_most=1.25)
    name = f"time until val_loss ≤ {ARTICLES_LOSS:.4f}: the article's / fast.yaml's"
    yield Row(name, time_to_loss, at_least=30)


def seconds_to_loss(lines: list[tuple[float, str]]) -> float:
    """Seconds from the start of the script's training until it reaches the loss, or until its last epoch ends."""
    start = next(seconds for seconds, line in lines if line.startswith("训练开始"))
    losses = [(seconds, re.search(r"validation loss:([\d.]+)", line)) for seconds, line in lines]
    epochs = [(seconds, float(loss[1])) for seconds, loss in losses if loss]
    reached = next((seconds for seconds, loss in epochs if loss <= ARTICLES_LOSS), epochs[-1][0])
    return reached - start


def reaches_loss(fit: list[str]) -> bool:
    """Whether the last validation loss of a run of :meth:`Settings.fit` is at most the article's."""
    with open(run_of(fit) / "metrics.csv", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    return losses[-1] <= ARTICLES_LOSS
