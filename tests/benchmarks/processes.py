"""Runs programs and measures their time and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    seconds: float
    peak_bytes: float
    lines: list[tuple[float, str]]
    """The lines of its output, each with the seconds after the start."""


def usage(arguments: list[str], folder: Path, **environment: str) -> Usage:
    """Runs a program in a folder until it ends. Raises SystemExit with the last lines of its output if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    lines = [(time.perf_counter() - start, line) for line in process.stdout]
    _, status, resources = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = "".join(line for _, line in lines[-20:])
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{end}")
    return Usage(seconds, resources.ru_maxrss * (1 if sys.platform == "darwin" else 1024), lines)


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def condgen(*arguments: str) -> list[str]:
    return python("-m", "condgen", *arguments)
