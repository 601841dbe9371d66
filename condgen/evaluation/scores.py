"""All scores of a set of samples: against the test images, beside those of real images in the samples' place."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError
from condgen.evaluation.evaluator import Judge, RandomConvolutions
from condgen.files.images import grid, write_png
from condgen.metrics.classifier import accuracy, in_parts
from condgen.metrics.distances import nearest
from condgen.metrics.diversity import Diversity
from condgen.metrics.frechet import FrechetDistance, LabelFrechetDistance
from condgen.metrics.gan_train import GANTrainAccuracy
from condgen.metrics.kernel import KernelDistance
from condgen.metrics.novelty import Novelty
from condgen.metrics.prdc import PrecisionRecallDensityCoverage
from condgen.metrics.set_metric import LabelledFeatures, SetMetric

PER_LABEL = 1000  # samples that are scored, where the test set has as many images
PAIRS = 20  # in the picture of the nearest training images


class Score(NamedTuple):
    """A score, a mean over labels where it is one, and its standard error (of a kernel distance, its deviation)."""

    value: float
    uncertainty: float
    per_label: list[float] | None = None


def samples_per_label(data: ImageDataModule) -> int:
    """How many samples of each label are scored: a thousand, or as many as the test set has on average."""
    return max(2, min(PER_LABEL, len(data.val_images) // data.num_classes))


def first_of_each_label(images: Images, numbers: dict[int, int]) -> Tensor:
    """The rows of the first ``numbers[label]`` images of each label."""
    return torch.cat([torch.nonzero(images.labels == label).flatten()[:n] for label, n in numbers.items()])


def rows_of(images: Images, rows: Tensor) -> Images:
    return Images(images.images[rows], images.labels[rows])


@contextmanager
def all_cores() -> Iterator[None]:
    """Computes on all of the machine's cores inside: sums round as they do in any other process there."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Scored(NamedTuple):
    """Scores by name, as in scores.json, and of how many samples they are."""

    scores: dict[str, dict[str, Any]]
    samples: int


def score_samples(samples: Images, data: ImageDataModule, judge: Judge, progress: bool = True) -> Scored:
    """The scores of samples, and of as many training images in their place, the floor.

    Args:
        samples: of every label some; of each the first :func:`samples_per_label` are taken, or less where there are not
            twice as many training images.
        data: whose test images they are compared with.
        judge: of that data set.
        progress: whether to show a progress bar.

    Raises:
        UsageError: the data set has no label with enough images.
    """
    training, test = data.train_images, data.val_images
    number = torch.stack([s.labels.bincount(minlength=data.num_classes) for s in (samples, training, test)])
    number[1] //= 2  # the floor's images are taken out of the training images that they are compared with
    as_many = number[:2].amin(0).clamp(max=samples_per_label(data))
    labels = [label for label in range(data.num_classes) if as_many[label] and number[2, label]]
    if not labels:
        raise UsageError(f"{data.full_name} has too few images for scores: two to train and one to test of a label.")
    first = {label: int(as_many[label]) for label in labels}
    samples = rows_of(samples, first_of_each_label(samples, first))
    floor_rows, others = first_of_each_label(training, first), torch.ones(len(training), dtype=torch.bool)
    others[floor_rows] = False
    floor, rest = rows_of(training, floor_rows), rows_of(training, others)
    metrics, floor_metrics = _metrics(data, training), _metrics(data, rest)
    steps = 2 * len(metrics) + 3
    with all_cores(), tqdm(total=steps, desc="Scoring", disable=not progress, leave=False, mininterval=1) as bar:
        spaces = _Spaces(judge, data, bar)
        real = spaces.of(rows_of(test, torch.isin(test.labels, torch.tensor(labels))))
        of_samples = _scores(samples, real, spaces, metrics)
        of_floor = _scores(floor, real, spaces, floor_metrics)
    found: dict[str, dict[str, Any]] = {}
    for name, score in of_samples.items():
        found[name] = {"value": _number(score.value), "uncertainty": _number(score.uncertainty)}
        found[name]["floor"] = _number(of_floor[name].value)
        found[name]["floor_uncertainty"] = _number(of_floor[name].uncertainty)
        if score.per_label is not None:
            found[name]["per_label"] = dict(zip(map(str, labels), map(_number, score.per_label), strict=True))
    return Scored(found, len(samples))


def _number(value: float) -> float | None:
    """Six digits, which is more than any score means; None for what there is none of, as JSON has no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


class _Spaces:
    """Images as what metrics compare: the judge's embedding, random convolutions, pixels as bytes."""

    def __init__(self, judge: Judge, data: ImageDataModule, bar: Any) -> None:
        self.judge, self.random, self.bar = judge, RandomConvolutions(data.image_shape), bar

    def of(self, images: Images) -> dict[str, LabelledFeatures]:
        self.bar.update()
        return {
            "embedding": LabelledFeatures(in_parts(self.judge.embed, images.images), images.labels),
            "random": LabelledFeatures(in_parts(self.random, images.images), images.labels),
            "pixels": LabelledFeatures(images.images, images.labels),
        }


def _metrics(data: ImageDataModule, training: Images) -> dict[str, tuple[str, SetMetric]]:
    """The space and the metric of each score, or of several together."""
    alone = {"sync_on_compute": False}  # each process has all samples
    return {
        "gan_train_accuracy": ("pixels", GANTrainAccuracy(data.num_classes, **alone)),
        "frechet_distance": ("embedding", FrechetDistance(**alone)),
        "frechet_distance_per_label": ("embedding", LabelFrechetDistance(**alone)),
        "frechet_distance_random": ("random", FrechetDistance(**alone)),
        "kernel_distance": ("embedding", KernelDistance(**alone)),
        "precision recall density coverage": ("embedding", PrecisionRecallDensityCoverage(**alone)),
        "diversity": ("pixels", Diversity(**alone)),
        "novelty": ("pixels", Novelty(training.images, training.labels, **alone)),
    }


def _scores(
    images: Images,
    real: dict[str, LabelledFeatures],
    spaces: _Spaces,
    metrics: dict[str, tuple[str, SetMetric]],
) -> dict[str, Score]:
    right, mine = accuracy(spaces.judge.verdict, images.images, images.labels), spaces.of(images)
    scores = {"accuracy": Score(right, math.sqrt(right * (1 - right) / len(images)))}
    for names, (space, metric) in metrics.items():
        metric.update(*mine[space], real=False)
        metric.update(*real[space], real=True)
        values, errors = metric.compute(), metric.uncertainty()
        each = values.reshape(len(values) if values.ndim else 1, -1)  # (labels, scores)
        for name, column, error in zip(names.split(), each.T, errors.reshape(-1), strict=True):
            per_label = column.tolist() if values.ndim else None
            scores[name] = Score(float(column.mean()), float(error), per_label)
        spaces.bar.update()
    return scores


def write_nearest(samples: Images, data: ImageDataModule, path: Path) -> None:
    """A picture of the samples that are closest to a training image, each followed by it, four pairs a row.

    Closest as measured by how far test images of the label are: else only thin digits would be seen.
    """
    training, test = data.train_images, data.val_images
    pairs: list[tuple[float, Tensor, Tensor]] = []
    for label in samples.labels.unique().tolist():
        of_label = [images.images[images.labels == label] for images in (samples, training, test)]
        mine, references, real = (images.flatten(1) for images in of_label)
        if not len(references) or not len(real):
            continue
        found, rows = nearest(mine, references)
        usual = nearest(real, references)[0].mean()
        for row in found.argsort(stable=True)[:PAIRS].tolist():
            pairs.append((float(found[row] / usual), of_label[0][row], of_label[1][rows[row]]))
    closest = sorted(pairs, key=lambda pair: pair[0])[:PAIRS]
    between = torch.full_like(samples.images[0], 255)
    write_png(grid(torch.stack([image for _, *pair in closest for image in (*pair, between)]), 12), path)


def cell(value: Any) -> str:
    """A number of ``scores.json`` as it is printed: – where there is none."""
    if not isinstance(value, int | float):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def with_errors(found: dict[str, Any]) -> tuple[str, str]:
    """A score and its floor, each with its standard error."""
    pairs = (found["value"], found["uncertainty"]), (found["floor"], found["floor_uncertainty"])
    value, floor = ("–" if number is None else f"{cell(number)} ± {cell(error)}" for number, error in pairs)
    return value, floor


def table(scores: dict[str, dict[str, Any]], cost: dict[str, float | None]) -> str:
    """Scores and cost as they are printed."""
    lines = [f"{'':28}{'samples':>20}{'real images':>20}"]
    for name, found in scores.items():
        value, floor = with_errors(found)
        lines.append(f"{name:28}{value:>20}{floor:>20}")
    for name, number in cost.items():
        if number is not None:
            lines.append(f"{name:28}{number if isinstance(number, int) else round(number, 3):>20,}")
    return "\n".join(lines)
