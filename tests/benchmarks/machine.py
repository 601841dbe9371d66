"""A description of this machine, and its peak matrix-multiplication rate and memory bandwidth."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def description() -> dict[str, Any]:
    """Processor, cores, threads, and the versions of Python and the libraries."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse")},
    }


def multiplication_rate(size: int = 1024) -> float:
    """Floating-point operations per second in a product of two square matrices, the best of three."""
    a, b = torch.rand(2, size, size)
    return 2 * size**3 / best_seconds(lambda: a @ b)


def memory_bandwidth(size: int = 32_000_000) -> float:
    """Bytes read and written per second when 128 MB of numbers are scaled in place, the best of three."""
    numbers = torch.ones(size)
    return 2 * numbers.nbytes / best_seconds(lambda: numbers.mul_(1.0))


def best_seconds(call: Any, times: int = 3) -> float:
    call()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
