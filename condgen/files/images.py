"""Utilities to convert images to bytes and grids, and to save them as PNG or GIF."""

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
    """Converts images in [0, 1] to uint8 and moves them to the CPU.

    Raises:
        UsageError: If a pixel is NaN, since it would turn black.
    """
    if images.isnan().any():
        raise UsageError(
            "The generator returned NaN: use another checkpoint, or smaller values of settings such as model.guidance."
        )
    return images.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).cpu()


def grid(images: Tensor, columns: int) -> Tensor:
    """Arranges images in a grid, with two pixels of black padding around each image.

    Args:
        images: Images of shape (N, C, H, W) and dtype uint8.
        columns: The number of images per row.

    Returns:
        A single image of shape (3, H', W') and dtype uint8.
    """
    return make_grid(images, nrow=columns, padding=2)


def png(image: Tensor) -> bytes:
    """Encodes a uint8 image of shape (1, H, W) or (3, H, W) as PNG."""
    content = io.BytesIO()
    to_pil_image(image).save(content, "PNG")
    return content.getvalue()


def write_png(image: Tensor, path: Path) -> None:
    """Saves a uint8 image of shape (1, H, W) or (3, H, W) as a PNG file."""
    with atomic_write(path) as file:
        file.write(png(image))


def write_gif(frames: Sequence[Tensor], path: Path, milliseconds: int, pause: int) -> None:
    """Saves an animated GIF that loops forever.

    Args:
        frames: A sequence of uint8 images of shape (3, H, W).
        milliseconds: How long to show each frame except the last one.
        pause: How long to show the last frame, in milliseconds.
    """
    is_gray = all(bool((frame == frame[:1]).all()) for frame in frames)
    mode = "L" if is_gray else "RGB"
    first, *others = (to_pil_image(frame).convert(mode) for frame in frames)
    durations = [milliseconds] * len(others) + [pause]
    with atomic_write(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0, disposal=2)
