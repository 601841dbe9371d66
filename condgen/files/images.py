"""Converts images to bytes and grids, and writes PNG and GIF files."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from condgen.errors import UsageError
from condgen.files.atomic import atomic_write


def to_bytes(images: Tensor) -> Tensor:
    """Converts images in [0, 1] to uint8 images of the same shape on the CPU.

    Raises:
        UsageError: If a pixel is NaN, because it would become black.
    """
    if images.isnan().any():
        raise UsageError(
            "The generator returned NaN: use another checkpoint, or smaller values of settings such as model.guidance."
        )
    return images.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).cpu()


def grid(images: Tensor, columns: int) -> Tensor:
    """Arranges images in a grid, with two black pixels around each image.

    Args:
        images: Images with shape (N, C, H, W) and dtype uint8.
        columns: Number of images in each row.

    Returns:
        One image with shape (3, H', W') and dtype uint8.
    """
    return make_grid(images, nrow=columns, padding=2)


def png(image: Tensor) -> bytes:
    """Encodes a uint8 image with shape (1 or 3, H, W) as PNG."""
    content = io.BytesIO()
    to_pil_image(image).save(content, "PNG")
    return content.getvalue()


def write_png(image: Tensor, path: Path) -> None:
    """Writes a uint8 image with shape (1 or 3, H, W) to a PNG file."""
    with atomic_write(path) as file:
        file.write(png(image))


def write_gif(frames: Sequence[Tensor], path: Path, milliseconds: int, pause: int) -> None:
    """Writes an animated GIF that repeats endlessly.

    Args:
        frames: uint8 images with shape (3, H, W).
        path: Path to the GIF.
        milliseconds: Duration of each frame except the last.
        pause: Duration of the last frame in milliseconds.
    """
    is_gray = all(bool((frame == frame[:1]).all()) for frame in frames)
    mode = "L" if is_gray else "RGB"
    first, *others = (to_pil_image(frame).convert(mode) for frame in frames)
    durations = [milliseconds] * len(others) + [pause]
    with atomic_write(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0, disposal=2)
