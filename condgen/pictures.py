"""Images as pictures: bytes, PNG files and grids."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import encode_png
from torchvision.utils import make_grid

from condgen.files import replacing


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] to the nearest of 256 levels: uint8 of the same shape, on the CPU."""
    return images.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).cpu()


def grid(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) uint8 in rows of ``columns``, two black pixels around each: one image (3, H', W') uint8."""
    return make_grid(images, nrow=columns, padding=2)


def write_png(image: Tensor, path: Path) -> None:
    """Writes an image (1 or 3, H, W) uint8 as PNG."""
    with replacing(path) as file:
        file.write(encode_png(image).numpy().tobytes())
