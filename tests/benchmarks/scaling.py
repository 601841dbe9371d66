"""Measures how the cost of every family grows with the number of images, the number of classes and the image size.

    python tests/benchmarks/scaling.py

prints a table for random images in memory. The set-up lasts from creating the generator to the first training step, and
memory is the peak above that of the imports. A step is the fastest of several. Times are CPU time, so other programs
matter less. Each row is measured in its own process. Costs that grow more than proportionally are listed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from machine import description
from processes import python, usage

import condgen.generators
from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.training.runtime import keep_freed_memory

BATCH_SIZES = {"DNN": 64, "GAN": 64, "VAE": 128, "Drifting": 256, "Diffusion": 32}
BASE = {"images": 20_000, "classes": 10, "side": 32}
VALUES = {"images": (20_000, 200_000), "classes": (10, 100, 1_000), "side": (16, 32, 64)}
COSTS = {"setup_s": "set-up s", "setup_mb": "set-up MB", "step_ms": "step ms", "val_ms": "val ms", "peak_mb": "peak MB"}
STEPS = 10
TOLERANCE = 1.15  # a cost may grow by this factor more than proportionally before it is listed


class RandomImages(ImageDataModule):
    """Random color images with as many of each class."""

    def __init__(self, images: int, classes: int, side: int, **settings: Any) -> None:
        self.classes, self.image_shape = [str(label) for label in range(classes)], (3, side, side)
        super().__init__(**settings)
        self.all_images = torch.randint(0, 256, (images, *self.image_shape), dtype=torch.uint8)

    def read(self) -> tuple[Images, Images]:
        self.hparams["source"] = "full"
        labels = torch.arange(len(self.all_images)) % self.num_classes
        return Images(self.all_images, labels), Images(self.all_images[:1000], labels[:1000])


class Costs(Callback):
    """Records the costs of a training."""

    def __init__(self, base: float) -> None:
        self.base, self.start = base, time.process_time()
        self.times: list[float] = []
        self.costs: dict[str, float] = {}

    def on_train_start(self, *args: Any) -> None:
        self.costs = {"setup_s": time.process_time() - self.start, "setup_mb": peak_mb() - self.base}

    def on_train_batch_end(self, *args: Any) -> None:
        self.times.append(time.process_time())
        if len(self.times) == STEPS:
            self.costs["step_ms"] = 1000 * min(end - start for start, end in itertools.pairwise(self.times))

    def on_validation_batch_start(self, *args: Any) -> None:
        self.val_start = time.process_time()

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        milliseconds = 1000 * (time.process_time() - self.val_start)
        self.costs["val_ms"] = min(milliseconds, self.costs.get("val_ms", milliseconds))
        self.costs["peak_mb"] = peak_mb() - self.base


def peak_mb() -> float:
    """The peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure(family: str, size: dict[str, int]) -> dict[str, float]:
    """Trains a family for a few steps on random images, and validates it on some batches."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    keep_freed_memory()  # as the command line does
    base = peak_mb()
    groups = {"images_per_class": 16} if family == "Drifting" else {}
    data = RandomImages(**size, batch_size=BATCH_SIZES[family], **groups)
    costs = Costs(base)
    generator = getattr(condgen.generators, family)(num_classes=data.num_classes, image_shape=data.image_shape)
    trainer = Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        callbacks=[costs],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=2,
        val_check_interval=STEPS,
    )
    trainer.fit(generator, datamodule=data)
    return costs.costs


def more_than_linear(sizes: list[dict[str, int]], rows: list[dict[str, float]]) -> list[str]:
    """Describes the costs of a family that grow more than the number of images, classes or pixels."""
    found = []
    for name, values in VALUES.items():
        of_value = {
            size[name]: row for size, row in zip(sizes, rows, strict=True) if {**BASE, name: size[name]} == size
        }
        for less, more in itertools.pairwise(values):
            growth = (more / less) ** (2 if name == "side" else 1)
            for cost in COSTS:
                ratio = of_value[more][cost] / of_value[less][cost]
                if ratio > TOLERANCE * growth:
                    found.append(f"{COSTS[cost]} × {ratio:.1f} from {name} {less:,} to {more:,} (× {growth:g})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=BATCH_SIZES, default=list(BATCH_SIZES))
    parser.add_argument("--measure", nargs=2, metavar=("FAMILY", "SIZE"), help="measure one row, printed as JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], json.loads(arguments.measure[1]))))
        return
    print(" · ".join(f"{name} {value}" for name, value in description().items()), flush=True)
    print(f"{'':10}", *(f"{name:>10}" for name in (*BASE, *COSTS.values())), flush=True)
    sizes = [BASE] + [{**BASE, name: n} for name, values in VALUES.items() for n in values if n != BASE[name]]
    for family in arguments.families:
        rows = []
        for size in sizes:
            lines = usage(python(__file__, "--measure", family, json.dumps(size)), Path.cwd()).lines
            rows.append(row := json.loads(lines[-1][1]))
            numbers = [f"{n:10,}" for n in size.values()] + [f"{row[cost]:10.1f}" for cost in COSTS]
            print(f"{family:10}", *numbers, flush=True)
        for line in more_than_linear(sizes, rows):
            print(f"{family:10} MORE THAN LINEAR: {line}", flush=True)


if __name__ == "__main__":
    main()
