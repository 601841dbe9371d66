"""What this machine's processor is, and what its memory and its GPUs are asked for."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import torch


@cache
def amd_processor() -> bool:
    """Whether Linux names AMD as the maker of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()


def keep_freed_memory() -> None:
    """Has the C library keep memory that is freed, up to 1 GiB, for what needs it next.

    A step frees what the next one needs. glibc gives much of that back to the system each time and gets it again, page
    by page: in a step of the VAE 13,000 of them, and up to a fifth of the time in which the diffusion draws. Elsewhere
    than with Linux's glibc, this does nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in malloc.h
        if libc.mallopt(M_MMAP_THRESHOLD, 2**28) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):  # older ones take no more
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def use_deterministic_gpu() -> None:
    """Has the same command give the same numbers on a GPU, too, and convolutions the precision they have on a CPU."""
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS wants for it
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32 = False
