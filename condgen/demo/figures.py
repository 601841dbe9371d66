"""Images as HTML. They are embedded in the page as data URIs, so that the server does not write or serve any files."""

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

MAX_GRID_BYTES, MAX_PIXELS = 10_000_000, 25_000_000  # largest size of a sample grid


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def figure(
    content: bytes,
    title: str,
    lines: Sequence[str] = (),
    saved: Mapping[str, bytes] | None = None,
    times: int = 3,
    wide: bool = False,
) -> str:
    """Returns the HTML of an image with a caption beside it.

    Args:
        content: Content of a PNG or WebP file.
        title: Title of the caption, as plain text.
        lines: Lines below the title, as plain text.
        saved: Files that the user can save: a mapping from file name to content.
        times: Largest enlargement. ``page.css`` uses the largest integer up to ``times`` that fits.
        wide: Whether the image takes the whole width, with the caption below it.
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

    Args:
        path: Path to the file.

    Returns:
        The grid with shape (3, H, W) and dtype uint8.

    Raises:
        UsageError: If the file cannot be read, is damaged, or is too large.
    """
    try:
        with Image.open(io.BytesIO(read_limited(path, MAX_GRID_BYTES)), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise OSError(f"larger than {MAX_PIXELS:,} pixels")
            return pil_to_tensor(image.convert("RGB"))
    except Exception as error:  # Pillow raises exceptions of many types for damaged files
        raise UsageError(f"{path} cannot be shown ({error}): remove it, or restore it from a backup.") from error


def webp(frames: Sequence[Tensor], milliseconds: int | list[int], times: int = 1) -> bytes:
    """Returns the content of a WebP file with a lossless animation that repeats endlessly.

    Args:
        frames: Frames of one size, each with shape (1, H, W) or (3, H, W) and dtype uint8.
        milliseconds: Duration of every frame, or a list with the duration of each frame.
        times: Enlargement of the pixels.
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
