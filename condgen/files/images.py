"""Images as bytes, PNG, GIF and grids."""

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
    """Rounds images in [0, 1] to 256 levels: uint8 of the same shape, on the CPU.

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
    """Encodes an image (1 or 3, H, W) uint8 as PNG."""
    content = io.BytesIO()
    to_pil_image(image).save(content, "PNG")
    return content.getvalue()


def write_png(image: Tensor, path: Path) -> None:
    """Writes an image (1 or 3, H, W) uint8 as a PNG file."""
    with atomic_write(path) as file:
        file.write(png(image))


def write_gif(frames: Sequence[Tensor], path: Path, milliseconds: int, pause: int) -> None:
    """Writes frames (3, H, W) uint8 as an endless GIF, ``milliseconds`` each; the last one stays ``pause``."""
    is_grey = all(bool((frame == frame[:1]).all()) for frame in frames)
    mode = "L" if is_grey else "RGB"
    first, *others = (to_pil_image(frame).convert(mode) for frame in frames)
    durations = [milliseconds] * len(others) + [pause]
    with atomic_write(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0, disposal=2)
