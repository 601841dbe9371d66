"""The ``condgen plot`` command, which plots the losses and scores of one or more runs over the epochs."""

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

SCORES = {  # metrics that mean the same thing for every family
    "variance_ratio": "pixel variance within a label, over real",
    "score_diversity": "distance of two samples, over real",
    "score_accuracy": "samples classified as their label",
    "score_coverage": "real images with a sample near",
    "score_frechet_distance": "to real images",
}
REAL_IS_ONE = ("variance_ratio", "score_diversity")  # metrics that are 1 for real images
COLUMNS = ("train_loss_epoch", "val_loss", "val_loss_floor", *SCORES)  # columns of metrics.csv to plot
MAX_EPOCHS, MAX_VALUE = 10**9, 3.5e38  # the largest float32 is 3.4e38
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
MARKERS = "os^DvPX"


def plot(runs: list[str], output: str | None = None) -> None:
    """Plots how the losses, diversity, and scores change over the epochs.

    Args:
        runs: The run directories to plot together. Defaults to the newest run.
        output: Path to the PNG file. Defaults to metrics.png in the run directory, or in the working directory for
            multiple runs.
    """
    check_png("output", output)
    folders = [Path(run) for run in runs] or runs_with("metrics.csv", Path())[:1]
    if not folders:
        raise UsageError(f"No run under {RUNS} has metrics.csv. Train one: `condgen fit --config configs/base.yaml`.")
    found = {str(folder): read_curves(folder) for folder in folders}
    names = run_names({path: curves.family for path, curves in found.items()})
    path = Path(output) if output else folders[0] / "metrics.png" if len(found) == 1 else Path("metrics.png")
    plot_curves({names[path]: curves for path, curves in found.items()}, path)
    print("Picture:", path)


class Curves(NamedTuple):
    """The training curves of a run, loaded from its ``metrics.csv``."""

    family: str
    values: dict[str, list[tuple[int, float]]]  # (completed epochs, value) pairs per column


def read_curves(run: Path) -> Curves:
    """Loads the training curves from a run directory.

    Raises:
        UsageError: If ``run`` is not a run directory, if it has no completed epoch yet, or if one of its files contains
            a value that condgen would never write.
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
        raise UsageError(f"{path} cannot be read ({error.strerror}). Use run directories.") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} was not written by condgen ({error}). Use run directories.") from error
    if not values:
        raise UsageError(f"{path} has no completed epoch, so there is nothing to plot yet.")
    config = run / "config.yaml"
    model = read_config(str(config)).get("model")
    name = model.get("class_path") if isinstance(model, dict) else model
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise UsageError(f"{config}: model is {reprlib.repr(model)}, which is not a generator. Use run directories.")
    return Curves(printable(short_name(name)), values)


def plot_curves(runs: Mapping[str, Curves], path: Path) -> None:
    """Plots the losses in one panel per family, followed by one panel per score.

    The families are kept apart because their losses aren't comparable.

    Args:
        runs: The training curves, keyed by run name.
        path: Where to save the PNG file.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, MaxNLocator

    families = list(dict.fromkeys(curves.family for curves in runs.values()))
    scores = [name for name in SCORES if any(name in curves.values for curves in runs.values())]
    columns = min(3, len(families) + len(scores))
    rows = -(-(len(families) + len(scores)) // columns)
    styles: dict[str, Any] = {name: {"color": COLORS[n % 7], "marker": MARKERS[n % 7]} for n, name in enumerate(runs)}
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
        fitting = min(len(runs), max(1, 55 * columns // (max(map(len, runs)) + 8)))  # legend entries per row
        figure.legend(handles=lines, loc="outside upper center", ncols=fitting)


def _plot_points(panel: Axes, points: list[tuple[int, float]], **style: Any) -> None:
    panel.plot([epochs for epochs, _ in points], [value for _, value in points], markersize=4, **style)
