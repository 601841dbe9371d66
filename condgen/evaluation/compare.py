"""The ``condgen compare`` command, which shows the scores of several runs side by side."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from condgen.checkpoints.build import generator_of
from condgen.checkpoints.read import read_checkpoint
from condgen.errors import UsageError, printable
from condgen.evaluation.figures import check_png, figure_file
from condgen.evaluation.scores import cell, table
from condgen.evaluation.scores_file import main_scores, read_scores
from condgen.generators import ConditionalGenerator
from condgen.sampling.generate import sample_grid

BASIS = ("data", "source", "evaluator", "number of samples")
AXIS_LABELS = {
    "coverage": "coverage: real images that have a sample near",
    "accuracy": "label accuracy of the samples",
    "diversity": "diversity: distance between samples of a label, over real",
    "gan_train_accuracy": "accuracy of a classifier trained on the samples",
}
BESIDE_SAMPLES = ("accuracy", "coverage", "diversity", "frechet_distance", "nfe", "training_minutes")


def compare(
    paths: list[str], output: str = "scores.png", samples: str | None = None, labels: list[int] | None = None
) -> None:
    """Compares the scores of several runs. Prints a table and plots accuracy against coverage.

    Plots GAN-train accuracy against diversity instead if the runs were scored without an evaluator.

    Args:
        paths: Run directories scored by ``condgen test``, or paths to scores.json files.
        output: Path to the PNG file for the plot.
        samples: Path to an optional second PNG file, which shows ten samples per label next to the scores of each run.
        labels: The labels to show in the second file. Shows three labels by default.
    """
    check_png("output", output)
    check_png("samples", samples)
    found = {str(Path(path)): read_scores(Path(path)) for path in paths}
    for field, values in zip(BASIS, zip(*map(basis, found.values()), strict=True), strict=True):
        if len(set(values)) > 1:
            raise UsageError(f"These scores differ in {field} ({', '.join(sorted(set(values)))}). Leave some out.")
    names = run_names({path: content.get("generator", "") for path, content in found.items()})
    contents = {names[path]: content for path, content in found.items()}
    if samples is not None:
        generators = {names[path]: scored_generator(Path(path), content) for path, content in found.items()}
        plot_samples(generators, contents, labels, Path(samples))
    plot_scores(contents, Path(output))
    rows = []
    for name, real in all_scores(contents.values()).items():
        numbers = [content["scores"].get(name, {}).get("value") for content in contents.values()]
        rows.append((name, [cell(number) for number in (*numbers, real["real"])]))
    for name in dict.fromkeys(name for content in contents.values() for name in content["cost"]):
        rows.append((name, [cell(content["cost"].get(name)) for content in contents.values()]))
    print(table([*contents, "real images"], rows))
    print("Picture:", ", ".join(name for name in (output, samples) if name))


def basis(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the ``BASIS`` fields of a ``scores.json``. Scores can only be compared if all of these match."""
    number = scores.get("samples", {}).get("number")
    return (*(str(scores.get(field)) for field in BASIS[:-1]), str(number))


def all_scores(contents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the scores that any run has, each as in the first run that has it.

    Not every run has all scores, since only some families have a likelihood.

    Args:
        contents: The content of each ``scores.json``.
    """
    return {name: score for content in reversed([*contents]) for name, score in content["scores"].items()}


def run_names(families: Mapping[str, str]) -> dict[str, str]:
    """Picks a short, unique name for each path.

    This is the family name if every run belongs to a different family, or else the family name followed by the folder
    name. If that isn't unique either, we fall back to the full path.

    Args:
        families: Maps each path to its family name, which is empty if the family is unknown.
    """
    if "" not in families.values() and len(set(families.values())) == len(families):
        return dict(families)
    folders = {path: Path(path).resolve() for path in families}
    folders |= {path: folder.parent for path, folder in folders.items() if folder.name == "scores.json"}
    runs = {path: folder.name.removesuffix(".scores.json") for path, folder in folders.items()}
    names = {path: printable(f"{family} {runs[path]}".strip()) for path, family in families.items()}
    return names if len(set(names.values())) == len(names) else {path: printable(path) for path in families}


def plot_scores(contents: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Plots the two main scores of each run and of real images, with error bars of two standard errors.

    Args:
        contents: The content of each ``scores.json``, keyed by run name.
        path: Where to save the PNG file.
    """
    first = next(iter(contents.values()))
    points = [(name, content["scores"], "value", "uncertainty") for name, content in contents.items()]
    points.append(("real images", first["scores"], "real", "real_uncertainty"))
    names = main_scores(first["scores"])
    with figure_file(path, 6, 4.5) as figure:
        axes = figure.subplots()
        for name, scores, value, error in points:
            x, y = (scores[main] for main in names)
            errors: dict[str, Any] = {"xerr": 2 * (x[error] or 0), "yerr": 2 * (y[error] or 0)}
            style = "k*" if value == "real" else "o"
            axes.errorbar(x[value], y[value], fmt=style, capsize=3, markersize=9, label=name, **errors)
        low = min(0.9, *(scores[names[1]][value] - 0.05 for _, scores, value, _ in points))
        right = max(1.05, *(scores[names[0]][value] + 0.05 for _, scores, value, _ in points))
        axes.set(xlabel=AXIS_LABELS[names[0]], ylabel=AXIS_LABELS[names[1]])
        axes.set(xlim=(-0.05, right), ylim=(low, 1.02), title=first["data"])
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper")


def scored_generator(path: Path, scores: Mapping[str, Any]) -> ConditionalGenerator:
    """Loads the generator from the checkpoint that was scored.

    Args:
        path: Path to the run directory.
        scores: The content of the run's ``scores.json``.

    Raises:
        UsageError: If ``path`` is not a run directory, or if the checkpoint was deleted or overwritten after scoring.
    """
    scored = scores.get("checkpoint", {})
    name = Path(scored.get("path", "")).name
    checkpoint = path / "checkpoints" / name
    if not os.path.isfile(checkpoint):
        raise UsageError(f"{path} has no checkpoints/{name} to sample from. Use run directories.")
    content = read_checkpoint(checkpoint)
    if content["global_step"] != scored.get("steps"):
        raise UsageError(
            f"{checkpoint} was trained further after it was scored. Score it again with "
            f"`condgen test --ckpt_path {checkpoint}`."
        )
    return generator_of(content, checkpoint, scores.get("settings", {}))


def plot_samples(
    generators: Mapping[str, ConditionalGenerator],
    contents: Mapping[str, Mapping[str, Any]],
    labels: Sequence[int] | None,
    path: Path,
) -> None:
    """Plots samples from each run next to its scores.

    Each run gets a grid with one row per label, which shows the first ten samples for seed 0.

    Args:
        generators: The generators, keyed by run name.
        contents: The content of each ``scores.json``, keyed by run name.
        labels: The labels to sample. If ``None``, three labels are used.
        path: Where to save the PNG file.

    Raises:
        UsageError: If ``labels`` is empty or contains a label that some generator doesn't support.
    """
    classes = min(generator.num_classes for generator in generators.values())
    if labels is None:
        labels = (2, 6, 8) if classes > 8 else range(min(3, classes))
    if not labels or not all(0 <= label < classes for label in labels):
        raise UsageError(f"labels is {list(labels)}. Use one or more labels from 0 to {classes - 1}.")
    grids = [sample_grid(generator, labels, 10, seed=0) for generator in generators.values()]
    _, height, width = grids[0].shape
    with figure_file(path, 11, 0.35 + len(grids) * 4.6 * height / width) as figure:
        rows = figure.subplots(len(grids), 2, squeeze=False, width_ratios=(4.6, 6.4))
        for (image, text), grid, (name, content) in zip(rows, grids, contents.items(), strict=True):
            image.imshow(grid.permute(1, 2, 0).numpy())
            image.set_title(name, loc="left")
            for number, score in enumerate(BESIDE_SAMPLES):
                value = content["scores"].get(score, {}).get("value", content["cost"].get(score))
                shown = "–" if value is None else f"{value:.3g}"
                place = {"x": 0.05 + 0.17 * number, "transform": text.transAxes}
                text.text(y=0.5, s=shown, fontsize=11, va="center", **place)
                if text is rows[0][1]:
                    text.text(y=1, s=score.replace("nfe", "NFE").replace("_", "\n"), fontsize=9, va="bottom", **place)
            image.set_axis_off()
            text.set_axis_off()
