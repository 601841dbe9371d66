"""Measures ImageFolder on 10,000 JPEG images of 200 x 200 pixels in 10 classes.

    python tests/benchmarks/image_folder.py

prints the seconds and the peak memory of the first start, which decodes the images, and of the second start, which
reads the cache. Each start runs in its own process, and both numbers exclude the imports. A start lasts until the first
batch, and its memory includes an epoch of batches. The last rows compare ImageFolder with the same images in memory. Do
not run anything else on the machine at the same time.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from machine import description
from PIL import Image
from processes import python, usage
from ratios import alternate
from scaling import peak_mb

from condgen.data.image_folder import ImageFolder
from condgen.data.loader import Images
from condgen.generators import DNN

CLASSES, SIDE, STEPS = 10, 200, 15


class InMemory(ImageFolder):
    """The images of an ImageFolder, copied to memory."""

    def read(self) -> tuple[Images, Images]:
        training, testing = super().read()
        return Images(training.images.clone(), training.labels), testing


def write_class(root: Path, label: int, number: int) -> None:
    """Writes JPEG images with random blobs of color to a folder."""
    folder = root / f"class {label}"
    folder.mkdir()
    random = np.random.default_rng(label)
    for index in range(number):
        blobs = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        pixels = np.asarray(blobs.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) + random.normal(0, 4, (SIDE, SIDE, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)


def measure_start(root: str, image_size: int) -> dict[str, float]:
    """The seconds until the first batch and the peak memory in MB, both above the imports."""
    base, start = peak_mb(), time.perf_counter()
    data = ImageFolder(root=root, image_size=image_size)
    data.prepare_data()
    data.setup("fit")
    next(iter(data.train_dataloader()))
    assert len(data.label_means) == CLASSES  # every training computes them
    seconds = time.perf_counter() - start
    for _ in data.train_dataloader():
        pass
    decoded = (len(data.train_images) + len(data.val_images)) * data.train_images.images[0].nbytes / 1e6
    return {"seconds": seconds, "peak_mb": peak_mb() - base, "decoded_mb": decoded}


def loader_seconds(data: ImageFolder) -> float:
    """The seconds of an epoch of batches, without training."""
    start = time.perf_counter()
    for _ in data.train_dataloader():
        pass
    return time.perf_counter() - start


def training_seconds(data: ImageFolder, steps: int) -> float:
    """The seconds of some training steps of the DNN, including the start of the Trainer."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    generator = DNN(num_classes=CLASSES, image_shape=data.image_shape)
    start = time.perf_counter()
    Trainer(max_steps=steps, accelerator="cpu", limit_val_batches=0, **quiet).fit(generator, datamodule=data)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="number of images (default: 10,000)")
    parser.add_argument("--image_size", type=int, default=64, help="side of the decoded images (default: 64)")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements per ratio (default: 5)")
    parser.add_argument("--measure", metavar="ROOT", help="measure one start, printed as JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure_start(arguments.measure, arguments.image_size)))
        return
    print(" · ".join(f"{name} {value}" for name, value in description().items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with ProcessPoolExecutor() as pool:
            each = arguments.images // CLASSES
            list(pool.map(write_class, [root] * CLASSES, range(CLASSES), [each] * CLASSES))
        size = ("--image_size", str(arguments.image_size))
        for name, target in (("first", 60), ("second", 5)):
            lines = usage(python(__file__, "--measure", folder, *size), Path.cwd()).lines
            start = json.loads(lines[-1][1])
            print(f"{name} start: {start['seconds']:.1f} s (target: {target} s)")
            peak, decoded = start["peak_mb"], start["decoded_mb"]
            print(f"{name} start: {peak:.0f} MB, {peak / decoded:.2f} of the decoded {decoded:.0f} MB (target: 1.2)")
        sets = [kind(root=folder, image_size=arguments.image_size) for kind in (ImageFolder, InMemory)]
        for data in sets:
            data.setup("fit")
            training_seconds(data, 2)  # warm-up
        ratio = alternate(*(lambda data=data: training_seconds(data, STEPS) for data in sets), arguments.pairs)
        print(f"{STEPS} training steps of the DNN: seconds with ImageFolder / with the same images in memory: {ratio}")
        ratio = alternate(*(lambda data=data: loader_seconds(data) for data in sets), arguments.pairs)
        print(f"an epoch of batches: seconds with ImageFolder / with the same images in memory: {ratio}")


if __name__ == "__main__":
    main()
