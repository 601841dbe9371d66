"""Opens image files from untrusted sources, with size limits, and converts them to 8 bits per channel."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from condgen.files.reading import read_limited

# We can't use catch_warnings because it isn't thread-safe. Pillow only warns about damaged metadata and large images,
# which we reject anyway.
warnings.filterwarnings("ignore", module="PIL")

MAX_PIXELS = 89_000_000  # same as Pillow's own limit, but Pillow only warns
MAX_PICTURE_BYTES = 2**26  # size of 4096 x 4096 uncompressed pixels
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # no EPS since that would run Ghostscript
PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip


def open_picture(path: Path) -> Image.Image:
    """Opens an image without decoding its pixels.

    Raises:
        OSError: If the file can't be read or is too large.
        ValueError: If the file isn't an image, or if the image has more than 89 million pixels.
        Image.DecompressionBombError: If the image has more than 179 million pixels.
    """
    content = read_limited(path, MAX_PICTURE_BYTES)
    try:
        image = Image.open(io.BytesIO(content), formats=PICTURE_FORMATS)
    except UnidentifiedImageError as error:
        formats = ", ".join(PICTURE_FORMATS)
        raise ValueError(f"its format is not one of {formats}" if content else "the file is empty") from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
    return image


def is_gray(image: Image.Image) -> bool:
    """Checks whether an image only has gray levels, based on its mode and palette."""
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16")


def check_levels(image: Image.Image) -> None:
    """Checks that the value range of an image is known.

    Raises:
        ValueError: If the range is unknown, e.g. because the pixels are floats.
    """
    is_known = image.mode != "F"
    # TIFF tags: 258 BitsPerSample, 262 PhotometricInterpretation, 339 SampleFormat
    if tags := getattr(image, "tag_v2", None):
        is_unsigned = set(tags.get(339, (1,))) == {1}
        is_known = is_unsigned and (not image.mode.startswith("I") or (tags.get(258), tags.get(262)) == ((16,), 1))
    if not is_known:
        raise ValueError(f"the mode {image.mode} of the {image.format} file is not supported: use 8 bits per channel")


def gray_8_bit(image: Image.Image) -> Image.Image:
    """Converts a 16-bit grayscale image to 8 bits.

    The mode of these images is I;16 or I;16B, or just I for PGM files and older versions of Pillow.
    """
    levels = np.asarray(image).astype(np.int64)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
