"""Rows about sampling."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from processes import condgen, usage
from ratios import alternate
from rows import Row, Settings
from torch import Tensor

import condgen as package
from condgen.cli.main import main
from condgen.generators import Diffusion

NPZ = ("--predictions.format", "npz")
BLOCK_SIZE = 64  # samples per batch, for `condgen predict` and for the bare loop


def sampling(settings: Settings) -> Iterator[Row]:
    """Samples per second of `condgen predict` and of a bare loop, and peak memory."""
    dnn, diffusion = settings.trained("base"), settings.trained("diffusion")
    pairs = settings.pairs
    rate(dnn, 10)  # imports everything first, because start-up time is measured by other rows
    ratio = alternate(lambda: rate(dnn, 100_000, *NPZ), lambda: bare_rate(dnn, 100_000), pairs)
    yield Row("100,000 DNN samples: condgen's samples per second / a bare loop's", ratio, at_least=0.85)
    ratio = alternate(lambda: rate(dnn, 20_000), lambda: rate(dnn, 20_000, *NPZ), pairs)
    yield Row("20,000 DNN samples: samples per second to PNG / to npz", ratio, at_least=0.25)
    ratio = alternate(lambda: rate(diffusion, 10_000, *NPZ), lambda: bare_rate(diffusion, 10_000), pairs)
    yield Row("10,000 diffusion samples: condgen's samples per second / a bare loop's", ratio, at_least=1.3)
    ratio = alternate(lambda: rate(dnn, 10_000, *NPZ), lambda: rate(dnn, 100_000, *NPZ), pairs)
    yield Row("seconds per DNN sample: 100,000 samples / 10,000 samples", ratio, at_most=1.05)
    ratio = alternate(lambda: peak_bytes(dnn, 100_000), lambda: peak_bytes(dnn, 10_000), pairs)
    yield Row("peak memory of sampling the DNN: 100,000 samples / 10,000 samples", ratio, at_most=1.05)


def request(run: Path, samples: int) -> list[str]:
    folder = run / "benchmark_samples"
    shutil.rmtree(folder, ignore_errors=True)
    each = ["--data.samples_per_label", str(samples // 10), "--data.batch_size", str(BLOCK_SIZE)]
    options = ["--predictions.dirpath", str(folder), "--trainer.accelerator", "cpu"]  # the bare loop uses the CPU
    return ["predict", "--ckpt_path", str(run), *each, *options]


def rate(run: Path, samples: int, *options: str) -> float:
    """Samples per second of `condgen predict` in this process, including writing the files."""
    arguments = [*request(run, samples), *options]
    printed = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(arguments)
    if code:
        raise SystemExit(printed.getvalue())
    return samples / (time.perf_counter() - start)


def bare_rate(run: Path, samples: int) -> float:
    """Samples per second of :func:`bare_loop`, in a new process without condgen's settings of the memory allocator."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(bare_loop, run, samples).result()


def bare_loop(run: Path, samples: int) -> float:
    """Samples per second of a loop as one would write it by hand, with PyTorch's default memory format."""
    generator = package.load(run).to(memory_format=torch.contiguous_format)
    generate = generate_with_plain_guidance if isinstance(generator, Diffusion) else type(generator).generate
    labels = torch.arange(10).repeat_interleave(samples // 10)
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, samples, BLOCK_SIZE):
            indices = range(first, min(first + BLOCK_SIZE, samples))
            generate(generator, labels[first : first + BLOCK_SIZE], generator.sample_noise(0, indices))
    return samples / (time.perf_counter() - start)


def generate_with_plain_guidance(generator: Diffusion, labels: Tensor, noise: Tensor) -> Tensor:
    """Generates with a time and a label for each image, and a separate unconditional pass for guidance."""
    no_label = torch.full_like(labels, generator.num_classes)

    def model(x_t: Tensor, t: float) -> Tensor:
        times = x_t.new_full((len(x_t),), t)
        conditional = generator.predict(generator.ema, x_t, times, labels)
        if not generator.is_guided(t):
            return conditional
        unconditional = generator.predict(generator.ema, x_t, times, no_label)
        return unconditional + generator.hparams.guidance * (conditional - unconditional)

    return generator.solve(model, noise) / 2 + 0.5


def peak_bytes(run: Path, samples: int) -> float:
    return usage(condgen(*request(run, samples), *NPZ), run).peak_bytes
