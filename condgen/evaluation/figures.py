"""Helpers for saving matplotlib figures as PNG files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condgen.errors import UsageError
from condgen.files.atomic import atomic_write, say_replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: Any = {
    "text.parse_math": False,  # names may contain a $, which shouldn't be rendered as math
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
}


def check_png(option: str, name: str | None) -> None:
    """Raises a ``UsageError`` if a file name was given for this option and it doesn't end in .png."""
    if name is not None and not name.endswith(".png"):
        raise UsageError(f"{option} is {name}. Use a file name that ends in .png.")


@contextmanager
def figure_file(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Context manager that creates a matplotlib figure and saves it as a PNG file on exit.

    Args:
        path: Where to save the PNG file.
        width: The figure width in inches.
        height: The figure height in inches.
    """
    import matplotlib  # lazy import because it's slow
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        yield figure
        say_replacing(path)
        with atomic_write(path) as file:
            figure.savefig(file, format="png")
