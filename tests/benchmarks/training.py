"""Rows about training: the training step, the overhead of an epoch, two processes, and larger datasets."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from processes import usage
from ratios import Ratio, alternate
from rows import NO_SCORES, Row, Settings, train_seconds
from torch import Tensor

from condgen.data.idx import read_idx

HERE = str(Path(__file__).parent)  # so that `condgen fit` can import the callbacks of this folder
# the config of each family, and its steps per turn
FAMILIES = {
    "DNN": ("base", 20),
    "GAN": ("gan", 8),
    "VAE": ("vae", 8),
    "Drifting": ("drifting", 2),
    "Diffusion": ("diffusion", 16),
}
SHORT = ("--trainer.limit_val_batches", "1", "--sample_grids.every_n_epochs", "10", *NO_SCORES)


def steps(settings: Settings) -> Iterator[Row]:
    """Training steps of `condgen fit`, compared with a bare loop of the same operations and the machine's limit."""
    for family, (config, number) in FAMILIES.items():
        output = settings.folder / f"{family}.json"
        callback = ("--trainer.callbacks+", "steps.TakeTurns", "--trainer.callbacks.output", str(output))
        numbers = ("--trainer.callbacks.steps", str(number), "--trainer.callbacks.turns", str(5 * settings.pairs))
        with_limit = family == "DNN" and not torch.cuda.is_available()  # the limit is measured for the CPU
        limit = ("--trainer.callbacks.limit", str(with_limit).lower())
        fit = settings.fit(config, *callback, *numbers, *limit, "--trainer.limit_val_batches", "0")
        usage(fit, settings.folder, PYTHONPATH=HERE)
        turns = json.loads(output.read_text())
        yield Row(
            f"a training step of the {family}: condgen's time / a bare loop's",
            Ratio([turn["ours"] / turn["bare"] for turn in turns]),
            at_most=1.03,
        )
        if with_limit:
            ratio = Ratio([turn["ours"] / turn["least"] for turn in turns])
            yield Row("a training step of the DNN: condgen's time / the machine's limit", ratio, at_most=1.3)


def overhead(settings: Settings) -> Iterator[Row]:
    """The time of an epoch of the DNN that is neither training nor validation, relative to the rest."""
    output = settings.folder / "costs.json"
    costs = ("--trainer.callbacks+", "costs.Costs", "--trainer.callbacks.output", str(output))
    profiled = ("--trainer.profiler", "simple", "--trainer.max_epochs", str(settings.pairs))
    usage(settings.fit("base", *costs, *profiled, *NO_SCORES), settings.folder, PYTHONPATH=HERE)
    epochs = json.loads(output.read_text())
    for name, key, at_most in (
        ("grids, logging, checkpoints and progress bar", "costs", 0.03),
        ("checks for non-finite losses and gradients", "checks", None),
    ):
        ratio = Ratio([epoch[key] / (epoch["seconds"] - epoch["costs"] - epoch["checks"]) for epoch in epochs])
        yield Row(f"{name} / the rest of an epoch", ratio, at_most=at_most)


def two_processes(settings: Settings) -> Iterator[Row]:
    """Two processes with one thread each, compared with one process with two threads, for the same global batch."""
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    for batch_size, batches, at_least in ((64, 200, None), (512, 50, 0.85)):
        batches_each = ("--data.batch_size", str(batch_size), "--trainer.limit_train_batches", str(batches))
        options = (*SHORT, *batches_each, "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu")

        def seconds(threads: str, *further: str, options: tuple[str, ...] = options) -> float:
            usage(fit := settings.fit("base", *options, *further), settings.folder, OMP_NUM_THREADS=threads)
            return train_seconds(fit)

        ratio = alternate(
            lambda seconds=seconds: seconds("2"), lambda seconds=seconds: seconds("1", *two), settings.pairs
        )
        name = f"batch size {batch_size}: images per second, two processes / two threads"
        yield Row(name, ratio, at_least=at_least)


def more_data(settings: Settings) -> Iterator[Row]:
    """Ten times as many images, or six times as many labels, for the same number of steps."""
    images = read_idx(settings.data / "MNIST" / "raw" / "train-images-idx3-ubyte")
    labels = read_idx(settings.data / "MNIST" / "raw" / "train-labels-idx1-ubyte")
    few = {"MNIST/raw/train": (images[:6_000], labels[:6_000]), "MNIST/raw/t10k": (images[:1_000], labels[:1_000])}
    many_labels = torch.arange(len(labels)).remainder(62).byte()
    emnist = "EMNIST/raw/emnist-byclass"
    with_62_labels = {f"{emnist}-train": (images, many_labels), f"{emnist}-test": (images[:1_000], many_labels[:1_000])}
    few_root, with_62_labels_root = (str(write_idx_files(settings, parts)) for parts in (few, with_62_labels))
    datasets = {
        "6,000 images, 10 labels": ("--data.root", few_root),
        "60,000 images, 10 labels": (),
        "60,000 images, 62 labels": ("--data", "EMNIST", "--data.split", "byclass", "--data.root", with_62_labels_root),
    }
    epochs = ("--trainer.max_epochs", "10", "--trainer.limit_train_batches", "93")  # 6,000 images have 93 batches
    seconds: dict[str, list[float]] = {name: [] for name in datasets}
    peaks: dict[str, list[float]] = {name: [] for name in datasets}
    for _ in range(settings.pairs):
        for name, options in datasets.items():
            resources = usage(fit := settings.fit("base", *SHORT, *epochs, *options), settings.folder)
            seconds[name].append(train_seconds(fit))
            peaks[name].append(resources.peak_bytes)
    fewer, many, labeled = datasets
    yield Row("930 training steps: 60,000 images / 6,000 images", ratio_of(seconds[many], seconds[fewer]), at_most=1.05)
    yield Row("peak memory: 60,000 images / 6,000 images", ratio_of(peaks[many], peaks[fewer]), at_most=1.05)
    yield Row("930 training steps: 62 labels / 10 labels", ratio_of(seconds[labeled], seconds[many]), at_most=1.05)
    yield Row("peak memory: 62 labels / 10 labels", ratio_of(peaks[labeled], peaks[many]), at_most=1.05)


def write_idx_files(settings: Settings, parts: dict[str, tuple[Tensor, Tensor]]) -> Path:
    """Writes images and labels to IDX files in a new data root, and returns it."""
    root = Path(tempfile.mkdtemp(dir=settings.folder))
    for part, (images, labels) in parts.items():
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        for name, numbers in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in numbers.shape)
            (root / name).write_bytes(bytes([0, 0, 8, numbers.ndim]) + sizes + numbers.numpy().tobytes())
    return root


def ratio_of(first: list[float], second: list[float]) -> Ratio:
    return Ratio([a / b for a, b in zip(first, second, strict=True)])
