"""Rows about drawing samples."""

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
BLOCK_SIZE = 64  # samples that either contender draws at once


def sampling(settings: Settings) -> Iterator[Row]:
    """Samples a second of `condgen predict`, and of a bare loop."""
    dnn, diffusion = settings.trained("base"), settings.trained("diffusion")
    pairs = settings.pairs
    rate(dnn, 10)  # imports what drawing needs: how soon it begins is another row
    ratio = alternate(lambda: rate(dnn, 100_000, *NPZ), lambda: bare_rate(dnn, 100_000), pairs)
    yield Row("100,000 samples of the DNN to npz: ours / a bare loop, a second", ratio, at_least=0.85)
    ratio = alternate(lambda: rate(dnn, 20_000), lambda: rate(dnn, 20_000, *NPZ), pairs)
    yield Row("20,000 samples of the DNN: to PNG / to npz, a second", ratio, at_least=0.25)
    ratio = alternate(lambda: rate(diffusion, 10_000, *NPZ), lambda: bare_rate(diffusion, 10_000), pairs)
    yield Row("10,000 samples of the diffusion in blocks of 64: ours / a bare loop, a second", ratio, at_least=1.3)
    ratio = alternate(lambda: rate(dnn, 10_000, *NPZ), lambda: rate(dnn, 100_000, *NPZ), pairs)
    yield Row("seconds a sample, of 100,000 of the DNN / of 10,000", ratio, at_most=1.05)
    ratio = alternate(lambda: peak_bytes(dnn, 100_000), lambda: peak_bytes(dnn, 10_000), pairs)
    yield Row("peak memory, of 100,000 samples of the DNN / of 10,000", ratio, at_most=1.05)


def request(run: Path, samples: int) -> list[str]:
    folder = run / "drawn"
    shutil.rmtree(folder, ignore_errors=True)
    each = ["--data.samples_per_label", str(samples // 10), "--data.batch_size", str(BLOCK_SIZE)]
    drawn = ["--predictions.dirpath", str(folder), "--trainer.accelerator", "cpu"]  # as a bare loop draws
    return ["predict", "--ckpt_path", str(run), *each, *drawn]


def rate(run: Path, samples: int, *options: str) -> float:
    """Samples a second of `condgen predict`, in this process, to files."""
    arguments = [*request(run, samples), *options]
    said = io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments)
    if code:
        raise SystemExit(said.getvalue())
    return samples / (time.perf_counter() - began)


def bare_rate(run: Path, samples: int) -> float:
    """Samples a second of :func:`bare_loop`, in a process that keeps its memory as PyTorch's do, not as condgen's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(bare_loop, run, samples).result()


def bare_loop(run: Path, samples: int) -> float:
    """Samples a second of a loop that one would write by hand, laid out as PyTorch does it, for block after block."""
    generator = package.load(run).to(memory_format=torch.contiguous_format)
    draw = with_a_time_each if isinstance(generator, Diffusion) else type(generator).generate
    labels = torch.arange(10).repeat_interleave(samples // 10)
    began = time.perf_counter()
    with torch.no_grad():
        for start in range(0, samples, BLOCK_SIZE):
            indices = range(start, min(start + BLOCK_SIZE, samples))
            draw(generator, labels[start : start + BLOCK_SIZE], generator.draw_noise(0, indices))
    return samples / (time.perf_counter() - began)


def with_a_time_each(generator: Diffusion, labels: Tensor, noise: Tensor) -> Tensor:
    """Draws with the network as it is trained: a time and a label for each image, and a pass without for guidance."""
    no_label = torch.full_like(labels, generator.num_classes)

    def field(x: Tensor, at: float) -> Tensor:
        times = x.new_full((len(x),), at)
        with_label = generator.predict(generator.ema, x, times, labels)
        if not generator.is_guided(at):
            return with_label
        without = generator.predict(generator.ema, x, times, no_label)
        return without + generator.hparams.guidance * (with_label - without)

    return generator.solve(field, noise) / 2 + 0.5


def peak_bytes(run: Path, samples: int) -> float:
    return usage(condgen(*request(run, samples), *NPZ), run).peak_bytes
