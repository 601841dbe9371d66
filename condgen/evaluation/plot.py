"""``condgen plot``: losses, variance and scores over the epochs of one or several runs."""

from __future__ import annotations

import csv
import io
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from condgen.checkpoints.classes import short_name
from condgen.checkpoints.find import RUNS, runs_with
from condgen.errors import UsageError, printable
from condgen.evaluation.compare import run_names
from condgen.evaluation.figures import check_png, figure_file
from condgen.evaluation.scores_file import MAX_NAME
from condgen.files.config import read_config
from condgen.files.reading import open_regular

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = {  # metrics with the same meaning in every family
    "variance_ratio": "pixel variance within a label, over real",
    "score_diversity": "distance of two samples, over real",
    "score_accuracy": "samples classified as their label",
    "score_coverage": "real images with a sample near",
    "score_frechet_distance": "to real images",
}
REAL_IS_ONE = ("variance_ratio", "score_diversity")  # scores of which real images have 1
COLUMNS = ("train_loss_epoch", "val_loss", "val_loss_floor", *SCORES)  # of metrics.csv
MAX_EPOCHS, MAX_VALUE = 10**9, 3.5e38  # no float32 is larger
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
MARKERS = "os^DvPX"


def plot(runs: list[str], output: str | None = None) -> None:
    """Plots the curves of runs: losses, diversity and scores over the epochs.

    Args:
        runs: run directories, which share the panels; the newest run if none is given.
        output: the PNG file; if not given, metrics.png in the run directory, or here for several runs.
    """
    check_png("output", output)
    folders = [Path(run) for run in runs] or runs_with("metrics.csv", Path())[:1]
    if not folders:
        raise UsageError(f"No run under {RUNS} has metrics.csv. Train: `condgen fit --config configs/base.yaml`.")
    found = {str(folder): read_curves(folder) for folder in folders}
    names = run_names({path: curves.family for path, curves in found.items()})
    path = Path(output) if output else folders[0] / "metrics.png" if len(found) == 1 else Path("metrics.png")
    plot_curves({names[path]: curves for path, curves in found.items()}, path)
    print("Picture:", path)


class Curves(NamedTuple):
    """A run's family, and by column of ``metrics.csv`` the values (epochs completed, value)."""

    family: str
    values: dict[str, list[tuple[int, float]]]


def read_curves(run: Path) -> Curves:
    """Returns the curves of a run directory.

    Raises:
        UsageError: it is not a run directory, has no complete epoch, or its files have values that no training writes.
    """
    path = run / "metrics.csv"
    values: dict[str, list[tuple[int, float]]] = {}
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for column in COLUMNS:
                    if (text := row.get(column)) and math.isfinite(value := float(text)):
                        epochs = int(row["epoch"]) + 1
                        if not 0 < epochs <= MAX_EPOCHS or abs(value) > MAX_VALUE:
                            raise ValueError(f"the value {value:g} after {reprlib.repr(epochs)} epochs")
                        values.setdefault(column, []).append((epochs, value))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give run directories.") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is not one of condgen's ({error}): give run directories.") from error
    if not values:
        raise UsageError(f"{path} has no epoch that has ended: there is nothing to plot yet.")
    config = run / "config.yaml"
    model = read_config(str(config)).get("model")
    name = model.get("class_path") if isinstance(model, dict) else model
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise UsageError(f"{config}: model is {reprlib.repr(model)}, which is not a generator: give run directories.")
    return Curves(printable(short_name(name)), values)


def plot_curves(runs: Mapping[str, Curves], path: Path) -> None:
    """Writes a figure with a panel for the loss of each family, because losses of families differ, and for each score.

    Args:
        runs: the curves by the run's name.
        path: of the PNG file.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, MaxNLocator

    families = list(dict.fromkeys(curves.family for curves in runs.values()))
    scores = [name for name in SCORES if any(name in curves.values for curves in runs.values())]
    columns = min(3, len(families) + len(scores))
    rows = -(-(len(families) + len(scores)) // columns)
    styles: dict[str, Any] = {name: {"color": COLOURS[n % 7], "marker": MARKERS[n % 7]} for n, name in enumerate(runs)}
    with figure_file(path, 4.2 * columns, 0.5 + 3.1 * rows) as figure:
        panels = [figure.add_subplot(rows, columns, n + 1) for n in range(len(families) + len(scores))]
        for family, panel in zip(families, panels, strict=False):
            panel.set_title(f"{family}: val_loss; pale: train_loss")
            for name in (name for name, curves in runs.items() if curves.family == family):
                values = runs[name].values
                _plot_points(panel, values.get("train_loss_epoch", []), alpha=0.35, **styles[name])
                _plot_points(panel, values.get("val_loss", []), **styles[name])
                for _, floor in values.get("val_loss_floor", [])[-1:]:
                    panel.axhline(floor, color="0.4", linestyle=":", zorder=0)
                    panel.text(
                        0.01, floor, "val_loss_floor", transform=panel.get_yaxis_transform(), fontsize=8, va="bottom"
                    )
        for score, panel in zip(scores, panels[len(families) :], strict=True):
            panel.set_title(f"{score}: {SCORES[score]}")
            for name, curves in runs.items():
                _plot_points(panel, curves.values.get(score, []), **styles[name])
            if score in REAL_IS_ONE:
                panel.axhline(1, color="0.4", linestyle=":", zorder=0)
            if score == "score_frechet_distance":
                panel.set_yscale("log")
                panel.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
                panel.yaxis.set_major_formatter("{x:g}")
                panel.yaxis.set_minor_formatter("{x:g}")
            elif score == "score_accuracy":
                panel.set_ylim(min(0.9, panel.get_ylim()[0]), 1.005)
            else:
                panel.set_ylim(0, 1.05 * panel.get_ylim()[1])
        for panel in panels:
            panel.set(xlabel="epochs", xlim=(0, None))
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.grid(alpha=0.3)
        lines = [Line2D([], [], label=name, **style) for name, style in styles.items()]
        fitting = min(len(runs), max(1, 55 * columns // (max(map(len, runs)) + 8)))  # names in a row
        figure.legend(handles=lines, loc="outside upper center", ncols=fitting)


def _plot_points(panel: Axes, points: list[tuple[int, float]], **style: Any) -> None:
    panel.plot([epochs for epochs, _ in points], [value for _, value in points], markersize=4, **style)
