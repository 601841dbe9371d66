"""All scores of a set of samples: against the test images, beside those of real images in the samples' place."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance  # not from torchmetrics.image, which wants torch-fidelity
from tqdm import tqdm

import condgen
from condgen.batches import Images
from condgen.data import LabelledImages
from condgen.evaluation.gan_train import GANTrainAccuracy
from condgen.evaluation.judge import Judge, RandomConvolutions, in_parts
from condgen.evaluation.sets import (
    Diversity,
    FrechetDistance,
    LabelFrechetDistance,
    LabelledFeatures,
    Novelty,
    PrecisionRecallDensityCoverage,
    SetMetric,
    nearest,
)
from condgen.files import replacing
from condgen.pictures import grid, write_png

PER_LABEL = 1000  # samples that are scored, where the test set has as many images
PAIRS = 20  # in the picture of the nearest training images


class Score(NamedTuple):
    """A score, a mean over labels where it is one, and its standard error."""

    value: float
    standard_error: float
    per_label: list[float] | None = None


def samples_per_label(data: LabelledImages) -> int:
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


def score_samples(samples: Images, data: LabelledImages, judge: Judge, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The scores of samples, and of as many training images in their place, the floor: by name, as in scores.json.

    Args:
        samples: of every label some; at most a thousand of each are taken, the first ones.
        data: whose test images they are compared with.
        judge: of that data set.
        seed: of what is random in the scores.
    """
    training, test = data.train_images, data.val_images
    labels = [label for label in range(data.num_classes) if (test.labels == label).any()]
    samples = rows_of(samples, first_of_each_label(samples, dict.fromkeys(labels, PER_LABEL)))
    # The floor's images are taken out of the training images that they are compared with.
    counts = torch.stack([images.labels.bincount(minlength=data.num_classes) for images in (samples, training)])
    as_many = {label: min(int(counts[0, label]), int(counts[1, label]) // 2) for label in labels}
    floor_rows = first_of_each_label(training, as_many)
    others = torch.ones(len(training), dtype=torch.bool)
    others[floor_rows] = False
    with all_cores(), tqdm(total=2 * len(_metrics(data, training)) + 3, desc="Scoring", leave=False) as bar:
        spaces = _Spaces(judge, data, bar)
        real = spaces.of(test)
        of_samples = _scores(samples, real, spaces, _metrics(data, training), seed, bar)
        floor = _scores(
            rows_of(training, floor_rows), real, spaces, _metrics(data, rows_of(training, others)), seed, bar
        )
    return {
        name: {
            "value": _number(of_samples[name].value),
            "standard_error": _number(of_samples[name].standard_error),
            "floor": _number(floor[name].value),
            "floor_standard_error": _number(floor[name].standard_error),
        }
        | ({"per_label": [_number(v) for v in per_label]} if (per_label := of_samples[name].per_label) else {})
        for name in of_samples
    }


def _number(value: float) -> float | None:
    """Six digits, which is more than any score means; None for what there is none of, as JSON has no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


class _Spaces:
    """Images as what metrics compare: the judge's embedding, random convolutions, pixels as bytes."""

    def __init__(self, judge: Judge, data: LabelledImages, bar: Any) -> None:
        self.judge, self.random, self.bar = judge, RandomConvolutions(data.image_shape), bar

    def of(self, images: Images) -> dict[str, LabelledFeatures]:
        self.bar.update()
        return {
            "embedding": LabelledFeatures(in_parts(self.judge.embed, images.images), images.labels),
            "random": LabelledFeatures(in_parts(self.random, images.images), images.labels),
            "pixels": LabelledFeatures(images.images, images.labels),
        }


def _metrics(data: LabelledImages, training: Images) -> dict[str, tuple[str, SetMetric]]:
    """The space and the metric of each score, or of several together."""
    alone = {"sync_on_compute": False}  # each process has all samples
    return {
        "gan_train_accuracy": ("pixels", GANTrainAccuracy(data.num_classes, **alone)),
        "frechet_distance": ("embedding", FrechetDistance(**alone)),
        "frechet_distance_per_label": ("embedding", LabelFrechetDistance(**alone)),
        "frechet_distance_random": ("random", FrechetDistance(**alone)),
        "precision recall density coverage": ("embedding", PrecisionRecallDensityCoverage(**alone)),
        "diversity": ("pixels", Diversity(**alone)),
        "novelty": ("pixels", Novelty(training.images, training.labels, **alone)),
    }


def _scores(
    images: Images,
    real: dict[str, LabelledFeatures],
    spaces: _Spaces,
    metrics: dict[str, tuple[str, SetMetric]],
    seed: int,
    bar: Any,
) -> dict[str, Score]:
    right = (in_parts(spaces.judge.classify, images.images) == images.labels).double()
    mine = spaces.of(images)
    scores = {"accuracy": Score(float(right.mean()), float((right.var(correction=0) / len(right)).sqrt()))}
    for names, (space, metric) in metrics.items():
        metric.update(*mine[space], real=False)
        metric.update(*real[space], real=True)
        values, errors = metric.compute(), metric.standard_error(seed=seed)
        each = values.reshape(len(values) if values.ndim else 1, -1)  # (labels, scores)
        for name, column, error in zip(names.split(), each.T, errors.reshape(-1), strict=True):
            per_label = column.tolist() if values.ndim else None
            scores[name] = Score(float(column.mean()), float(error), per_label)
        if "frechet_distance_random" in names:
            scores["kernel_distance"] = kernel_distance(mine["embedding"].features, real["embedding"].features, seed)
        bar.update()
    return scores


def kernel_distance(samples: Tensor, real: Tensor, seed: int = 0) -> Score:
    """KID of features (N, D) and (M, D): its mean over 100 pairs of subsets of up to 1,000, and their deviation.

    The squared maximum mean discrepancy under the kernel (x·y / D + 1)³; unlike the Fréchet distance it is unbiased, so
    that real images have 0 on average, at any number (Bińkowski et al. 2018, "Demystifying MMD GANs").
    """
    size = min(1000, len(samples), len(real))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", ".*will save all extracted features.*")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(nn.Identity(), subset_size=size, sync_on_compute=False)
        metric.update(samples.double(), real=False)
        metric.update(real.double(), real=True)
        mean, deviation = metric.compute()
        return Score(float(mean), float(deviation))


def write_nearest(samples: Images, data: LabelledImages, path: Path) -> None:
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


def table(scores: dict[str, dict[str, Any]], cost: dict[str, float | None]) -> str:
    """Scores and cost as they are printed."""
    lines = [f"{'':28}{'samples':>20}{'real images':>20}"]
    for name, found in scores.items():
        cells = [
            "–" if found[value] is None else f"{found[value]:.4f} ± {found[error] or 0:.4f}"
            for value, error in (("value", "standard_error"), ("floor", "floor_standard_error"))
        ]
        lines.append(f"{name:28}{cells[0]:>20}{cells[1]:>20}")
    for name, number in cost.items():
        if number is not None:
            lines.append(f"{name:28}{number if isinstance(number, int) else round(number, 3):>20,}")
    return "\n".join(lines)


def write_scores(
    path: Path, scores: dict[str, dict[str, Any]], cost: dict[str, float | None], about: dict[str, Any]
) -> None:
    """Writes ``scores.json``: what was scored and how it was chosen, the scores, the cost."""
    content = {"condgen": condgen.__version__, **about, "scores": scores, "cost": cost}
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
