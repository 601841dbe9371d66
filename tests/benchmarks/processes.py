"""Whole programs: how long they take, and how much memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    seconds: float
    peak_bytes: float


def usage(arguments: list[str], folder: Path, **environment: str) -> Usage:
    """Runs a program to its end in a folder. Raises SystemExit with the end of what it said where it failed."""
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        _, status, resources = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            end = said.read().decode(errors="replace")[-2_000:]
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{end}")
    return Usage(seconds, resources.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def condgen(*arguments: str) -> list[str]:
    return python("-m", "condgen", *arguments)
