"""Settings for memory allocation, determinism and devices."""

import ctypes
import os
import sys

import torch
from torch import nn

from condgen.errors import UsageError


def keep_freed_memory() -> None:
    """Tells glibc to hold on to up to 1 GiB of freed memory so that it can be reused in the next step.

    By default, the memory goes back to the OS, which then has to map it again page by page. For the VAE, that's 13,000
    page faults per training step, and for the diffusion model, up to a fifth of the sampling time. Does nothing on
    systems without glibc.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
        if libc.mallopt(M_MMAP_THRESHOLD, 2**28) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):  # older glibc: up to 2**25
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def use_deterministic_algorithms() -> None:
    """Enables deterministic algorithms and disables TF32 convolutions if there is a GPU."""
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required for cuBLAS to be deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.allow_tf32 = False


def adapt_to_mps(model: nn.Module, precision: object) -> None:
    """Prepares a model for Apple's MPS, which supports neither the channels-last memory format nor gradient scaling.

    Raises:
        UsageError: If the precision (``trainer.precision``) needs a gradient scaler.
    """
    if str(precision) in ("16", "16-mixed"):
        raise UsageError(
            f"trainer.precision is {precision}, which needs a gradient scaler, and MPS has none. "
            "Use 32-true or bf16-mixed."
        )
    model.to(memory_format=torch.contiguous_format)


def describe_devices(device: torch.device, number: int) -> str:
    """Returns the name of a GPU or the type of another device, with the number of devices if there are several."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return name if number == 1 else f"{number} x {name}"
