"""Writes matplotlib figures to PNG files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condgen.errors import UsageError
from condgen.files.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: Any = {
    "text.parse_math": False,  # names from files may contain a $, which must not start a formula
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
}


def check_png(option: str, name: str | None) -> None:
    """Checks that the file name of an option is None or ends in .png; raises UsageError otherwise."""
    if name is not None and not name.endswith(".png"):
        raise UsageError(f"{option} is {name}. Use a file name that ends in .png.")


@contextmanager
def figure_file(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Creates a matplotlib figure and writes it to a PNG file when the ``with`` block ends.

    Args:
        path: Path to the PNG file.
        width: Width of the figure in inches.
        height: Height of the figure in inches.
    """
    import matplotlib  # imported here, because the import is slow
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        yield figure
        with atomic_write(path) as file:
            figure.savefig(file, format="png")
