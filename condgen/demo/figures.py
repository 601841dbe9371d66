"""Pictures as HTML: they are part of the page as data URIs, so that the server writes and serves no files."""

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

MAX_GRID_BYTES, MAX_PIXELS = 10_000_000, 25_000_000  # of a grid that a training wrote


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
    """Returns a picture with a caption beside it.

    Args:
        content: of a PNG or WebP file.
        title: plain text, and so are ``lines``, which stand below it.
        saved: files that can be saved, by their names.
        times: the largest enlargement; ``page.css`` takes the largest whole number that fits.
        wide: whether the picture takes the whole width, with the caption below.
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
    """Returns the picture in a PNG file: (3, H, W) uint8.

    Raises:
        UsageError: the file cannot be read, is damaged, or is too large.
    """
    try:
        with Image.open(io.BytesIO(read_limited(path, MAX_GRID_BYTES)), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise OSError(f"larger than {MAX_PIXELS:,} pixels")
            return pil_to_tensor(image.convert("RGB"))
    except Exception as error:  # Pillow raises errors of many classes for damaged files
        raise UsageError(f"{path} cannot be shown ({error}): remove it, or restore it from a backup.") from error


def webp(frames: Sequence[Tensor], milliseconds: int | list[int], times: int = 1) -> bytes:
    """Returns an endless, lossless WebP animation.

    Args:
        frames: (1 or 3, H, W) uint8 each, of one size.
        milliseconds: the duration of every frame, or of each.
        times: the enlargement of the pixels.
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
