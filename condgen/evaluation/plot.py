"""The curves of trainings as one picture: losses, how varied samples are, and their scores, epoch by epoch."""

from __future__ import annotations

import csv
import io
import itertools
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from condgen.checkpoints.classes import short_name
from condgen.checkpoints.find import RUNS, runs_with
from condgen.errors import UsageError, printable
from condgen.evaluation.figure_file import write_figure
from condgen.evaluation.report import run_names
from condgen.evaluation.scores_file import MAX_NAME
from condgen.files.config import read_config
from condgen.files.reading import open_regular

SCORES = {  # what is measured alike in every family
    "variance_ratio": "pixel variance within a label, over real",
    "score_diversity": "distance of two samples, over real",
    "score_accuracy": "samples taken for their label",
    "score_coverage": "real images with a sample near",
    "score_frechet_distance": "to real images",
}
SHOWN = ("train_loss_epoch", "val_loss", "val_loss_floor", *SCORES)
MAX_EPOCHS, MAX_VALUE = 10**9, 3.5e38  # a float32 is never larger
REAL_IMAGES_HAVE_ONE = ("variance_ratio", "score_diversity")
# colours that the colour-blind tell apart (Okabe and Ito 2008), and what tells lines apart in grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot(runs: list[str], output: str | None = None) -> None:
    """Draws the curves of runs into one picture: losses with their floor, diversity, and scores over the epochs.

    Args:
        runs: run directories, whose curves are laid over each other; the newest run if none is given.
        output: the picture; metrics.png in the run directory of a single run, and here of several, if not given.
    """
    if output is not None and not output.endswith(".png"):
        raise UsageError(f"output is {output}: give a name that ends in .png.")
    folders = [Path(run) for run in runs] or runs_with("metrics.csv", Path())[:1]
    if not folders:
        raise UsageError(
            f"No run under {RUNS} has metrics.csv: train one with `condgen fit --config configs/base.yaml`."
        )
    found = {str(folder).rstrip("/"): read_curves(folder) for folder in folders}
    names = run_names({path: curves.family for path, curves in found.items()})
    path = Path(output) if output else folders[0] / "metrics.png" if len(found) == 1 else Path("metrics.png")
    draw({names[path]: curves for path, curves in found.items()}, path)
    print("Picture:", path)


class Curves(NamedTuple):
    """A run's family, and by its name what ``metrics.csv`` has of each epoch: (epochs so far, value)."""

    family: str
    of: dict[str, list[tuple[int, float]]]


def read_curves(run: Path) -> Curves:
    """The curves of a run directory.

    Raises:
        UsageError: it is none, none of its epochs has ended, or its files hold what no training writes.
    """
    path = run / "metrics.csv"
    curves: dict[str, list[tuple[int, float]]] = {}
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for name in SHOWN:
                    if (text := row.get(name)) and math.isfinite(value := float(text)):
                        curves.setdefault(name, []).append(_point(int(row["epoch"]) + 1, value))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): give run directories, as lightning_logs/version_0."
        ) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is not one of condgen's ({error}): give run directories.") from error
    if not curves:
        raise UsageError(f"{path} has no epoch that has ended: there is nothing to draw yet.")
    return Curves(_family(run / "config.yaml"), curves)


def _point(epochs: int, value: float) -> tuple[int, float]:
    if not 0 < epochs <= MAX_EPOCHS or abs(value) > MAX_VALUE:
        raise ValueError(f"the value {value:g} after {reprlib.repr(epochs)} epochs")
    return epochs, value


def _family(config: Path) -> str:
    """The family of a run's generator, by the name on the command line."""
    model = read_config(str(config)).get("model")
    name = model.get("class_path") if isinstance(model, dict) else model
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise UsageError(f"{config}: model is {reprlib.repr(model)}, which is no generator: give run directories.")
    return printable(short_name(name))


def draw(runs: Mapping[str, Curves], path: Path) -> None:
    """Writes the picture: a panel for the loss of each family, which is not measured like others', and one a score.

    Args:
        runs: the curves of each name.
        path: of the PNG file.
    """
    from matplotlib.figure import Figure  # here: only those who want a picture wait for it
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    losses = {
        family: {name: curves for name, curves in runs.items() if curves.family == family}
        for family in dict.fromkeys(curves.family for curves in runs.values())
    }
    scores = [name for name in SCORES if any(name in curves.of for curves in runs.values())]
    columns = min(3, len(losses) + len(scores))
    rows = -(-(len(losses) + len(scores)) // columns)
    figure = Figure(figsize=(4.2 * columns, 0.5 + 3.1 * rows), dpi=120, layout="constrained")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    colours, dashes, markers = (itertools.cycle(style) for style in (COLOURS, DASHES, MARKERS))
    styles: dict[str, dict[str, Any]] = {
        name: {"color": next(colours), "linestyle": next(dashes), "marker": next(markers), "markersize": 4}
        for name in runs
    }
    for family, of_family in losses.items():
        panel = next(panels)
        panel.set_title(f"{family}: val_loss; pale: train_loss", fontsize=9)
        for name, curves in of_family.items():
            _curve(panel, curves.of.get("train_loss_epoch"), **{**styles[name], "alpha": 0.35, "linewidth": 1})
            _curve(panel, curves.of.get("val_loss"), **styles[name])
            for _, floor in curves.of.get("val_loss_floor", [])[-1:]:
                panel.axhline(floor, color="0.4", linestyle=":", zorder=0)
                where: dict[str, Any] = {
                    "xycoords": ("axes fraction", "data"),
                    "xytext": (4, 2),
                    "textcoords": "offset points",
                }
                panel.annotate("val_loss_floor", (0, floor), fontsize=8, **where)
    for score in scores:
        panel = next(panels)
        panel.set_title(f"{score}: {SCORES[score]}", fontsize=9)
        for name, curves in runs.items():
            _curve(panel, curves.of.get(score), **styles[name])
        if score in REAL_IMAGES_HAVE_ONE:
            panel.axhline(1, color="0.4", linestyle=":", zorder=0)
        if score == "score_frechet_distance":
            panel.set_yscale("log")
            panel.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
            for axis in ("major", "minor"):
                getattr(panel.yaxis, f"set_{axis}_formatter")(FuncFormatter(lambda value, _: f"{value:g}"))
        elif score == "score_accuracy":
            panel.set_ylim(min(0.9, panel.get_ylim()[0]), 1.005)
        else:
            panel.set_ylim(0, 1.05 * panel.get_ylim()[1])
    for panel in panels:
        panel.remove()
    for panel in figure.axes:
        panel.set_xlabel("epochs", fontsize=8)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.tick_params(which="both", labelsize=8)
        panel.grid(alpha=0.3)
    names = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    fitting = min(len(runs), max(1, 55 * columns // (max(map(len, runs)) + 8)))  # beside each other
    figure.legend(handles=names, loc="outside upper center", ncols=fitting, fontsize=9)
    write_figure(figure, path)


def _curve(panel: Any, points: list[tuple[int, float]] | None, **style: Any) -> None:
    if points:
        panel.plot(*zip(*points, strict=True), **style)
