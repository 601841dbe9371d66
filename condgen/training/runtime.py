"""Settings of this process: memory allocation and determinism."""

import ctypes
import os
import sys

import torch


def keep_freed_memory() -> None:
    """Makes glibc keep up to 1 GiB of freed memory for the next step, instead of returning it to the system.

    Otherwise each step gets its memory page by page: 13,000 page faults in a step of the VAE, and up to a fifth of the
    time in which the diffusion model samples. It has no effect without glibc.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in malloc.h
        if libc.mallopt(M_MMAP_THRESHOLD, 2**28) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):  # older ones allow no more
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def use_deterministic_algorithms() -> None:
    """Makes a command give the same numbers each time on a GPU, too, and disables TF32 in convolutions."""
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32 = False
