"""PNG files of matplotlib figures."""

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
    "text.parse_math": False,  # names come from files: show a $ as it is
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
}


def check_png(option: str, name: str | None) -> None:
    """Raises UsageError if the value of an option is given and is not the name of a PNG file."""
    if name is not None and not name.endswith(".png"):
        raise UsageError(f"{option} is {name}: give a name that ends in .png.")


@contextmanager
def figure_file(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A matplotlib figure, ``width`` x ``height`` inches, that is written to a PNG file when the block ends."""
    import matplotlib  # imported here, because it is slow
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        yield figure
        with atomic_write(path) as file:
            figure.savefig(file, format="png")
