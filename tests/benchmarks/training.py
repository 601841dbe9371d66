"""Rows about training: a step, what is done beside steps, several processes, and more data."""

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

HERE = str(Path(__file__).parent)  # where the callbacks are
# their configs, and how many steps they take in turn with a bare loop: the diffusion prepares 16 at once
FAMILIES = {
    "DNN": ("base", 20),
    "GAN": ("gan", 8),
    "VAE": ("vae", 8),
    "Drifting": ("drifting", 2),
    "Diffusion": ("diffusion", 16),
}
SHORT = ("--trainer.limit_val_batches", "1", "--sample_grids.every_n_epochs", "10", *NO_SCORES)


def steps(settings: Settings) -> Iterator[Row]:
    """A step of training in `condgen fit`, in a loop of the same operations, and at the machine's limit."""
    for family, (config, number) in FAMILIES.items():
        output = settings.folder / f"{family}.json"
        in_turns = ("--trainer.callbacks+", "steps.TakeTurns", "--trainer.callbacks.output", str(output))
        numbers = ("--trainer.callbacks.steps", str(number), "--trainer.callbacks.turns", str(5 * settings.pairs))
        with_limit = family == "DNN" and not torch.cuda.is_available()  # it is the processor's
        limit = ("--trainer.callbacks.limit", str(with_limit).lower())
        fit = settings.fit(config, *in_turns, *numbers, *limit, "--trainer.limit_val_batches", "0")
        usage(fit, settings.folder, PYTHONPATH=HERE)
        turns = json.loads(output.read_text())
        yield Row(
            f"a step of the {family}: ours / a bare loop's",
            Ratio([turn["ours"] / turn["bare"] for turn in turns]),
            at_most=1.03,
        )
        if with_limit:
            of_limit = Ratio([turn["ours"] / turn["least"] for turn in turns])
            yield Row("a step of the DNN: ours / the machine's limit", of_limit, at_most=1.3)


def beside_steps(settings: Settings) -> Iterator[Row]:
    """What an epoch of the DNN costs that is neither training nor validation."""
    output = settings.folder / "costs.json"
    costs = ("--trainer.callbacks+", "costs.Costs", "--trainer.callbacks.output", str(output))
    profiled = ("--trainer.profiler", "simple", "--trainer.max_epochs", str(settings.pairs))
    usage(settings.fit("base", *costs, *profiled, *NO_SCORES), settings.folder, PYTHONPATH=HERE)
    epochs = json.loads(output.read_text())
    for name, what, at_most in (
        ("grids, logging, checkpoints and progress", "costs", 0.03),
        ("checks that losses and gradients are numbers", "checks", None),
    ):
        ratio = Ratio([epoch[what] / (epoch["seconds"] - epoch["costs"] - epoch["checks"]) for epoch in epochs])
        yield Row(f"{name} in an epoch of the DNN / the rest", ratio, at_most=at_most)


def two_processes(settings: Settings) -> Iterator[Row]:
    """Two processes of one thread each, and one process of two threads, at the same global batch."""
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
        name = f"batches of {batch_size}: images a second, two processes / one of two threads"
        yield Row(name, ratio, at_least=at_least)


def more_data(settings: Settings) -> Iterator[Row]:
    """Ten times the images, and six times the labels, in as many steps."""
    images = read_idx(settings.data / "MNIST" / "raw" / "train-images-idx3-ubyte")
    labels = read_idx(settings.data / "MNIST" / "raw" / "train-labels-idx1-ubyte")
    few = {"MNIST/raw/train": (images[:6_000], labels[:6_000]), "MNIST/raw/t10k": (images[:1_000], labels[:1_000])}
    many_labels = torch.arange(len(labels)).remainder(62).byte()
    emnist = "EMNIST/raw/emnist-byclass"
    of_62 = {f"{emnist}-train": (images, many_labels), f"{emnist}-test": (images[:1_000], many_labels[:1_000])}
    few_root, of_62_root = (str(written(settings, parts)) for parts in (few, of_62))
    contenders = {
        "6,000 images, 10 labels": ("--data.root", few_root),
        "60,000 images, 10 labels": (),
        "60,000 images, 62 labels": ("--data", "EMNIST", "--data.split", "byclass", "--data.root", of_62_root),
    }
    epochs = ("--trainer.max_epochs", "10", "--trainer.limit_train_batches", "93")  # of 93 batches 6,000 images are
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(settings.pairs):
        for name, options in contenders.items():
            used = usage(fit := settings.fit("base", *SHORT, *epochs, *options), settings.folder)
            seconds[name].append(train_seconds(fit))
            peaks[name].append(used.peak_bytes)
    fewer, many, labelled = contenders
    yield Row("930 steps with 60,000 images / with 6,000", divided(seconds[many], seconds[fewer]), at_most=1.05)
    yield Row("peak memory with 60,000 images / with 6,000", divided(peaks[many], peaks[fewer]), at_most=1.05)
    yield Row("930 steps with 62 labels / with 10", divided(seconds[labelled], seconds[many]), at_most=1.05)
    yield Row("peak memory with 62 labels / with 10", divided(peaks[labelled], peaks[many]), at_most=1.05)


def written(settings: Settings, parts: dict[str, tuple[Tensor, Tensor]]) -> Path:
    """A folder with images and labels in IDX files."""
    root = Path(tempfile.mkdtemp(dir=settings.folder))
    for part, (images, labels) in parts.items():
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        for name, numbers in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in numbers.shape)
            (root / name).write_bytes(bytes([0, 0, 8, numbers.ndim]) + sizes + numbers.numpy().tobytes())
    return root


def divided(first: list[float], second: list[float]) -> Ratio:
    return Ratio([a / b for a, b in zip(first, second, strict=True)])
