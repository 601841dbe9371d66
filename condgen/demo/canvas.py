"""An image that users can edit on the page, with a mouse, a finger or the keyboard.

Gradio's ImageEditor can't be used here. It needs uploads, writes files on the server, and does not support keyboards.
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import torch
from torch import Tensor

from condgen.errors import UsageError

EDITED = "edited "
KEYS = "Arrow keys move the brush. Space paints. Shift and an arrow key paint a line."
TEMPLATE = f"""
<div class=canvas>
<canvas></canvas><canvas tabindex=0 role=application aria-label="Picture. {KEYS}"></canvas><i></i>
</div>
<label hidden>Color <input type=color value=#ffffff></label>
"""


def canvas() -> gr.HTML:
    """Returns a Gradio component for editing an image. Its value is a string, see :func:`encode`."""
    script = Path(__file__).with_name("canvas.js").read_text()
    return gr.HTML(html_template=TEMPLATE, js_on_load=script, apply_default_css=False, elem_id="canvas")


def encode(image: Tensor) -> str:
    """Converts a uint8 image of shape (C, H, W) to the value of a canvas.

    The format is ``WIDTHxHEIGHTxCHANNELS:RGBA``, where RGBA are the bytes of all pixels in base64. A is 0 for pixels
    that are marked for inpainting. After the user has edited the image, the value begins with ``EDITED``.
    """
    rgba = torch.cat((image.expand(3, -1, -1), torch.full_like(image[:1], 255)))
    return prefix(image.shape) + base64.b64encode(rgba.permute(1, 2, 0).numpy().tobytes()).decode()


def prefix(shape: Sequence[int]) -> str:
    """Returns what the value of a canvas begins with if its image has the shape (C, H, W)."""
    channels, height, width = shape
    return f"{width}x{height}x{channels}:"


def is_edited(value: str | None, shape: Sequence[int]) -> bool:
    """Checks if this is the value of a canvas with an image of shape (C, H, W) that the user has edited."""
    return (value or "").startswith(EDITED + prefix(shape))


def decode(value: str, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Converts the value of a canvas to an image and a mask.

    Args:
        value: The value of the canvas.
        shape: The expected image shape (C, H, W).

    Returns:
        The image as uint8 of shape (C, H, W), and a boolean mask of shape (H, W). The mask is False where a pixel is
        marked for inpainting.

    Raises:
        UsageError: If the value is not an image of this shape.
    """
    _, height, width = shape
    value = value.removeprefix(EDITED)
    try:
        rgba = base64.b64decode(value.removeprefix(prefix(shape)), validate=True)
    except (binascii.Error, ValueError):
        rgba = b""
    if not value.startswith(prefix(shape)) or len(rgba) != 4 * width * height:
        raise UsageError(f"The picture is not {width} x {height} pixels in the format of the page: click Start over.")
    pixels = torch.frombuffer(bytearray(rgba), dtype=torch.uint8).view(height, width, 4).permute(2, 0, 1)
    return pixels[: shape[0]].clone(), pixels[3] > 127
