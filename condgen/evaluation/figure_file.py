"""Writes a matplotlib figure to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from condgen.files.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file. Its text is drawn as it is: a name with a $ in it is no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
