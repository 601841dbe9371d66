"""What is compared: a function for each group of rows of the table."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from processes import condgen, python, usage
from ratios import Ratio, alternate

import condgen as package

ROOT = Path(__file__).parent.parent.parent
# their configs, and how many steps they take in turn with a bare loop: the diffusion prepares 16 at once
FAMILIES = {
    "DNN": ("base", 20),
    "GAN": ("gan", 8),
    "VAE": ("vae", 8),
    "Drifting": ("drifting", 2),
    "Diffusion": ("diffusion", 16),
}


@dataclass
class Row:
    """A ratio, and what it is to be: at least, at most, or nothing."""

    name: str
    ratio: Ratio
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        return f"≥ {self.at_least}" if self.at_least else f"≤ {self.at_most}" if self.at_most else ""

    @property
    def is_met(self) -> bool:
        median = self.ratio.median
        return (self.at_least or 0) <= median <= (self.at_most or float("inf"))


@dataclass
class Settings:
    """Where the full MNIST is, the article's script, how often contenders take turns, and where they may write."""

    data: Path
    article: Path | None
    pairs: int
    folder: Path

    def fit(self, config: str, *options: str) -> list[str]:
        """Trains in a run directory of its own."""
        root = tempfile.mkdtemp(dir=self.folder)
        data = ("--data.root", str(self.data), "--data.source", "full")
        config_file = str(ROOT / "configs" / f"{config}.yaml")
        return condgen("fit", "--config", config_file, *data, "--trainer.default_root_dir", root, *options)


def the_article(settings: Settings) -> Iterator[Row]:
    """The article's recipe, as it is and by us: five epochs, from the start of the program to its end."""
    if settings.article is None:
        return
    time_of, memory_of = Ratio(), Ratio()
    for _ in range(settings.pairs):
        folder = Path(tempfile.mkdtemp(dir=settings.folder))
        (folder / "data").symlink_to(settings.data)
        article = usage(python(str(settings.article)), folder)
        ours = usage(settings.fit("base", "--training_scores.every_n_epochs", "null"), settings.folder)
        time_of.of_pairs.append(article.seconds / ours.seconds)
        memory_of.of_pairs.append(ours.peak_bytes / article.peak_bytes)
    yield Row("five epochs of the DNN: the article's wall time / ours", time_of, at_least=2.2)
    yield Row("their peak memory: ours / the article's", memory_of, at_most=1.25)


def steps(settings: Settings) -> Iterator[Row]:
    """A step of training in `condgen fit`, in a loop of the same operations, and at the machine's limit."""
    for family, (config, number) in FAMILIES.items():
        output = settings.folder / f"{family}.json"
        in_turns = ("--trainer.callbacks+", "steps.TakeTurns", "--trainer.callbacks.output", str(output))
        numbers = ("--trainer.callbacks.steps", str(number), "--trainer.callbacks.turns", str(5 * settings.pairs))
        limit = ("--trainer.callbacks.limit", str(family == "DNN").lower())
        fit = settings.fit(config, *in_turns, *numbers, *limit, "--trainer.limit_val_batches", "0")
        usage(fit, settings.folder, PYTHONPATH=str(Path(__file__).parent))
        turns = json.loads(output.read_text())
        yield Row(
            f"a step of the {family}: ours / a bare loop's",
            Ratio([turn["ours"] / turn["bare"] for turn in turns]),
            at_most=1.03,
        )
        if family == "DNN":
            of_limit = Ratio([turn["ours"] / turn["least"] for turn in turns])
            yield Row("a step of the DNN: ours / the machine's limit", of_limit, at_most=1.3)


def starting(settings: Settings) -> Iterator[Row]:
    """How long one waits for an answer, over how long the libraries take to be imported."""
    run = trained(settings, "base")
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


def trained(settings: Settings, config: str) -> Path:
    """A run of a config of a few steps: what it draws costs what any run's samples do."""
    arguments = settings.fit(config, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")
    usage([*arguments, "--trainer.limit_val_batches", "1", "--training_scores.every_n_epochs", "null"], settings.folder)
    return run_of(arguments)


def run_of(fit: list[str]) -> Path:
    """The run directory of a command of :meth:`Settings.fit`."""
    return Path(fit[fit.index("--trainer.default_root_dir") + 1]) / "lightning_logs" / "version_0"


def drawing(run: Path, samples: int, *options: str) -> float:
    """Samples a second of `condgen predict`, in this process, to files."""
    from condgen.__main__ import main

    folder = run / "drawn"
    shutil.rmtree(folder, ignore_errors=True)
    each = ("--data.samples_per_label", str(samples // 10), "--predictions.dirpath", str(folder))
    began = time.perf_counter()
    if main(["predict", "--ckpt_path", str(run), *each, *options]):
        raise SystemExit("condgen predict failed")
    return samples / (time.perf_counter() - began)


def bare_drawing(run: Path, samples: int, block_size: int = 64) -> float:
    """Samples a second of a loop that asks the family for block after block, and keeps nothing."""
    generator = package.load(run)
    labels = torch.arange(10).repeat_interleave(samples // 10)
    began = time.perf_counter()
    with torch.no_grad():
        for start in range(0, samples, block_size):
            indices = range(start, min(start + block_size, samples))
            generator.generate(labels[start : start + block_size], generator.draw_noise(0, indices))
    return samples / (time.perf_counter() - began)


def sampling(settings: Settings) -> Iterator[Row]:
    """Samples a second of `condgen predict`, and of a bare loop."""
    npz = ("--predictions.format", "npz")
    dnn, diffusion = trained(settings, "base"), trained(settings, "diffusion")
    ratio = alternate(lambda: drawing(dnn, 100_000, *npz), lambda: bare_drawing(dnn, 100_000), settings.pairs)
    yield Row("100,000 samples of the DNN to npz: ours / a bare loop, a second", ratio, at_least=0.85)
    ratio = alternate(lambda: drawing(dnn, 20_000), lambda: drawing(dnn, 20_000, *npz), settings.pairs)
    yield Row("20,000 samples of the DNN: to PNG / to npz, a second", ratio, at_least=0.25)
    ratio = alternate(lambda: drawing(diffusion, 10_000, *npz), lambda: bare_drawing(diffusion, 10_000), settings.pairs)
    yield Row("10,000 samples of the diffusion to npz: ours / a bare loop, a second", ratio, at_least=1.3)


def train_seconds(arguments: list[str], folder: Path, **environment: str) -> float:
    """Of training alone, without the start of the program."""
    usage(arguments, folder, **environment)
    checkpoint = run_of(arguments) / "checkpoints" / "last.ckpt"
    return float(torch.load(checkpoint, weights_only=True, mmap=True)["condgen"]["train_seconds"])


def processes(settings: Settings) -> Iterator[Row]:
    """Two processes of one thread each, and one process of two threads, at the same global batch."""
    few = ("--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1", "--training_scores.every_n_epochs", "null")
    two = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    for batch_size, batches, at_least in ((64, 200, None), (512, 50, 0.85)):
        options = (*few, "--data.batch_size", str(batch_size), "--trainer.limit_train_batches", str(batches))
        ratio = alternate(
            lambda options=options: train_seconds(settings.fit("base", *options), settings.folder, OMP_NUM_THREADS="2"),
            lambda options=options: train_seconds(
                settings.fit("base", *options, *two), settings.folder, OMP_NUM_THREADS="1"
            ),
            settings.pairs,
        )
        yield Row(
            f"batches of {batch_size}: images a second, two processes / one of two threads", ratio, at_least=at_least
        )


GROUPS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "starting": starting,
    "steps": steps,
    "sampling": sampling,
    "processes": processes,
    "article": the_article,
}
