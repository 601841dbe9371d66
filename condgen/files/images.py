"""Images as pictures: bytes, PNG files and grids."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from condgen.errors import UsageError
from condgen.files.atomic import atomic_write


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] to the nearest of 256 levels: uint8 of the same shape, on the CPU.

    Raises:
        UsageError: a pixel is NaN, which would become black.
    """
    if images.isnan().any():
        raise UsageError(
            "The generator returned NaN: use another checkpoint, or smaller values of settings such as model.guidance."
        )
    return images.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).cpu()


def grid(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) uint8 in rows of ``columns``, two black pixels around each: one image (3, H', W') uint8."""
    return make_grid(images, nrow=columns, padding=2)


def png(image: Tensor) -> bytes:
    """An image (1 or 3, H, W) uint8 as the content of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()).save(
        content, "PNG"
    )
    return content.getvalue()


def write_png(image: Tensor, path: Path) -> None:
    """Writes an image (1 or 3, H, W) uint8 as a PNG file."""
    with atomic_write(path) as file:
        file.write(png(image))


def write_gif(frames: Sequence[Tensor], path: Path, milliseconds: int, pause: int) -> None:
    """Writes images (3, H, W) uint8 as an endless GIF in grey, so many milliseconds each; the last stays ``pause``."""
    first, *others = (Image.fromarray(frame.permute(1, 2, 0).numpy()).convert("L") for frame in frames)
    durations = [milliseconds] * len(others) + [pause]
    with atomic_write(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0, disposal=2)
