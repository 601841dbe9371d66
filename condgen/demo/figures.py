"""Converts images to HTML. They are embedded as data URIs so that the server never has to write or serve files."""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from condgen.errors import UsageError
from condgen.files.reading import read_limited

MAX_GRID_BYTES, MAX_PIXELS = 10_000_000, 25_000_000  # limits for sample grids


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def alert(problem: str) -> str:
    """Returns an HTML paragraph with an error message."""
    return f"<p role=alert>{escape(problem.removeprefix('data.')[:600])}</p>"


def figure(
    content: bytes,
    title: str,
    lines: Sequence[str] = (),
    saved: Mapping[str, bytes] | None = None,
    times: int = 3,
    wide: bool = False,
) -> str:
    """Returns an HTML figure with the caption next to the image.

    Args:
        content: The bytes of a PNG or WebP file.
        title: The caption's title in plain text.
        lines: More caption lines in plain text.
        saved: Files to offer for download, as a dictionary of file names and contents.
        times: The maximum zoom factor. ``page.css`` picks the largest integer zoom that fits.
        wide: Whether to use the full width of the page, with the caption below the image.
    """
    with Image.open(io.BytesIO(content), formats=("PNG", "WEBP")) as image:
        source, style = _data_uri(content, f"image/{str(image.format).lower()}"), f"--w:{image.width}px;--times:{times}"
    spans = [escape(line) for line in lines]
    if saved:
        links = [
            f'<a download="{escape(name.replace("/", "-"))}" href="{_data_uri(file, "application/octet-stream")}">'
            f"{name.rpartition('.')[2].upper()}</a>"
            for name, file in saved.items()
        ]
        spans.append(f"save {' '.join(links)}")
    caption = f"<b>{escape(title)}</b>{''.join(f'<span>{span}</span>' for span in spans)}"
    image_tag = f'<img src="{source}" alt="{escape(title)}" style="{style}">'
    return f"<figure{' class=wide' * wide}>{image_tag}<figcaption>{caption}</figcaption></figure>"


def read_grid(path: Path) -> Tensor:
    """Reads a sample grid from a PNG file.

    Returns:
        The grid as a uint8 tensor of shape (3, H, W).

    Raises:
        UsageError: If the file is missing, corrupted, or too large.
    """
    try:
        with Image.open(io.BytesIO(read_limited(path, MAX_GRID_BYTES)), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise OSError(f"larger than {MAX_PIXELS:,} pixels")
            return pil_to_tensor(image.convert("RGB"))
    except Exception as error:  # Pillow raises exceptions of many types for damaged files
        raise UsageError(f"{path} cannot be shown ({error}): remove it, or restore it from a backup.") from error


def webp(frames: Sequence[Tensor], milliseconds: int | list[int], times: int = 1) -> bytes:
    """Encodes the frames as a lossless WebP animation that loops forever.

    Args:
        frames: uint8 tensors of shape (1, H, W) or (3, H, W), all of the same size.
        milliseconds: How long to show each frame. Can be a list with one duration per frame.
        times: The factor by which to enlarge the frames.
    """
    pictures = [to_pil_image(frame).convert("RGB") for frame in frames]
    pictures = [
        picture.resize((picture.width * times, picture.height * times), 0) for picture in pictures
    ]  # 0: nearest
    content = io.BytesIO()
    pictures[0].save(
        content, "WEBP", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, lossless=True
    )
    return content.getvalue()
