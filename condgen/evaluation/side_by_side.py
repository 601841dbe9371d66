"""A picture of what several generators draw for the same labels, with their scores beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from condgen.checkpoints.build import generator_of
from condgen.checkpoints.read import read_checkpoint
from condgen.errors import UsageError
from condgen.evaluation.figure_file import write_figure
from condgen.generators import ConditionalGenerator
from condgen.sampling.generate import sample_grid

COLUMNS = {
    "accuracy": "scores",
    "coverage": "scores",
    "diversity": "scores",
    "frechet_distance": "scores",
    "nfe": "cost",
    "training_minutes": "cost",
}


def scored_generator(path: Path, scores: Mapping[str, Any]) -> ConditionalGenerator:
    """The generator of a run directory as it was when its samples got ``scores``, the content of its ``scores.json``.

    Raises:
        UsageError: the run has not got that checkpoint any more, or ``path`` is no run.
    """
    scored = scores.get("checkpoint", {})
    name = Path(scored.get("path", "")).name
    checkpoint = path / "checkpoints" / name
    if not os.path.isfile(checkpoint):
        raise UsageError(f"{path} has no checkpoints/{name} to draw samples from: give run directories.")
    content = read_checkpoint(checkpoint)
    if content["global_step"] != scored.get("steps"):
        raise UsageError(
            f"{checkpoint} was trained on since its scores: `condgen test --ckpt_path {checkpoint}` gets new ones."
        )
    return generator_of(content, checkpoint, scores.get("settings", {}))


def samples_of(generator: ConditionalGenerator, labels: Sequence[int], each: int) -> Tensor:
    """The first samples of seed 0 of each label, a row a label: an image (3, H, W) uint8.

    Raises:
        UsageError: there are no labels, or not those.
    """
    if not labels or not all(0 <= label < generator.num_classes for label in labels):
        raise UsageError(f"labels is {list(labels)}: give some of 0 to {generator.num_classes - 1}.")
    return sample_grid(generator, labels, each, seed=0)


def draw_side_by_side(
    found: Mapping[str, tuple[Path, Mapping[str, Any]]], labels: Sequence[int] | None, path: Path, each: int = 10
) -> None:
    """Writes a picture: for every run its samples of the labels, and beside them its scores.

    Args:
        found: of each name the run directory and the content of its ``scores.json``.
        labels: a row of samples for each; three labels if not given.
        path: of the PNG file.
        each: samples of a label.
    """
    from matplotlib.figure import Figure  # here: only those who want a picture wait for it

    generators = {name: scored_generator(*of) for name, of in found.items()}
    if labels is None:
        classes = min(generator.num_classes for generator in generators.values())
        labels = (2, 6, 8) if classes > 8 else range(min(3, classes))
    pictures = {name: samples_of(generator, labels, each) for name, generator in generators.items()}
    _, height, width = next(iter(pictures.values())).shape
    figure = Figure(figsize=(11, 0.35 + len(found) * 4.6 * height / width), dpi=150, layout="constrained")
    axes = figure.subplots(len(found), 2, squeeze=False, width_ratios=(4.6, 6.4))
    positions = [0.05 + 0.17 * number for number in range(len(COLUMNS))]
    for row, (name, (_, scores)) in enumerate(found.items()):
        image, text = axes[row]
        image.imshow(pictures[name].permute(1, 2, 0).numpy())
        image.set_title(name, loc="left", fontsize=10)
        for axis in (image, text):
            axis.set_axis_off()
        for x, (score, kind) in zip(positions, COLUMNS.items(), strict=True):
            of = scores[kind].get(score)
            value = of["value"] if isinstance(of, dict) else of
            shown = "–" if value is None else f"{value:.3g}" if kind == "cost" else f"{value:.3f}"
            text.text(x, 0.5, shown, transform=text.transAxes, fontsize=11, va="center")
            if row == 0:
                text.text(x, 1, score.replace("_", "\n"), transform=text.transAxes, fontsize=9, va="bottom")
    write_figure(figure, path)
