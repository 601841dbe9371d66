"""Computes the scores for a set of samples, using the test images for comparison.

Real images are scored in the same way to get reference values.
"""

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from condgen import metrics
from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError
from condgen.evaluation.evaluator import Evaluator, RandomConvolutions
from condgen.files.images import grid, write_png
from condgen.metrics.classifier import accuracy, in_parts
from condgen.metrics.distances import nearest
from condgen.metrics.set_metric import LabeledFeatures

PER_LABEL = 1000  # samples to score per label, if the test set has that many images
PAIRS = 20  # number of pairs to show in nearest.png


def samples_per_label(data: ImageDataModule) -> int:
    """Returns the number of samples to score per label.

    This is 1,000, or the average number of test images per label if that is smaller.
    """
    return max(2, min(PER_LABEL, len(data.val_images) // data.num_classes))


def first_of_each_label(images: Images, numbers: dict[int, int]) -> Tensor:
    """Returns the indices of the first ``numbers[label]`` images for each label."""
    return torch.cat([torch.nonzero(images.labels == label).flatten()[:n] for label, n in numbers.items()])


def rows_of(images: Images, rows: Tensor) -> Images:
    return Images(images.images[rows], images.labels[rows])


@contextmanager
def all_cores() -> Iterator[None]:
    """Context manager that makes PyTorch use one thread per CPU core.

    Rounding errors depend on the number of threads, so scores are only reproducible if that number stays the same.
    """
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def score_samples(
    samples: Images, data: ImageDataModule, evaluator: Evaluator | None, progress: bool = True
) -> tuple[dict[str, dict[str, Any]], int]:
    """Scores the given samples, as well as the same number of training images for reference.

    Returns a dictionary with the scores, along with the number of samples that were scored. Each score is a dictionary
    with ``value`` and ``uncertainty`` for the samples, ``real`` and ``real_uncertainty`` for the training images, and
    ``per_label`` if there is one value per label.

    Args:
        samples: The samples to score. They have to include every label. Only the first :func:`samples_per_label` are
            used per label, or fewer if there are not twice as many training images.
        data: The dataset with the test images to compare against.
        evaluator: The evaluator for this dataset. If ``None``, scores that need an evaluator are skipped.
        progress: Whether to show a progress bar.

    Raises:
        UsageError: If no label of the dataset has enough images.
    """
    training, test = data.train_images, data.val_images
    counts = torch.stack([s.labels.bincount(minlength=data.num_classes) for s in (samples, training, test)])
    counts[1] //= 2  # one half of the training images is scored against the other
    numbers = torch.minimum(counts[0], counts[1]).clamp(max=samples_per_label(data)) * (counts[2] > 0)
    first = {label: number for label, number in enumerate(numbers.tolist()) if number}
    if not first:
        raise UsageError(
            f"{data.full_name} has too few images for scores. A label needs two training images and one test image."
        )
    real_rows = first_of_each_label(training, first)
    is_other = torch.ones(len(training), dtype=torch.bool).index_fill_(0, real_rows, False)
    samples = rows_of(samples, first_of_each_label(samples, first))
    real, others = rows_of(training, real_rows), rows_of(training, is_other)
    test = rows_of(test, torch.isin(test.labels, torch.tensor(list(first))))
    with all_cores():
        reference = _features(test, evaluator)
        both = itertools.chain(
            _scores(samples, reference, training, data, evaluator), _scores(real, reference, others, data, evaluator)
        )
        total = 24 if evaluator else 8
        found = list(tqdm(both, "Scoring", total=total, disable=not progress, leave=False, mininterval=1))
    scores: dict[str, dict[str, Any]] = {}
    half = len(found) // 2
    for (name, values, error), (_, real_values, real_error) in zip(found[:half], found[half:], strict=True):
        scores[name] = {"value": rounded(values.mean()), "uncertainty": rounded(error)}
        scores[name] |= {"real": rounded(real_values.mean()), "real_uncertainty": rounded(real_error)}
        if values.ndim:
            scores[name]["per_label"] = dict(zip(map(str, first), map(rounded, values), strict=True))
    return scores, len(samples)


def rounded(value: float | Tensor) -> float | None:
    """Rounds to six significant digits. NaN and infinity become ``None`` because JSON doesn't support them."""
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


def _features(images: Images, evaluator: Evaluator | None) -> dict[str, LabeledFeatures]:
    """Computes features from the evaluator (if there is one), random convolutions, and raw uint8 pixels."""
    spaces = {"random": in_parts(RandomConvolutions(images.images.shape[1:]), images.images), "pixels": images.images}
    if evaluator:
        spaces["embedding"] = in_parts(evaluator.embed, images.images)
    return {name: LabeledFeatures(features, images.labels) for name, features in spaces.items()}


def _scores(
    images: Images,
    reference: dict[str, LabeledFeatures],
    training: Images,
    data: ImageDataModule,
    evaluator: Evaluator | None,
) -> Iterator[tuple[str, Tensor, float]]:
    """Yields the name, value, and standard error of each score. Values are scalars or have shape (labels,).

    Args:
        images: The images to score.
        reference: The features of the test images, keyed by feature space.
        training: The training images used to compute the novelty.
    """
    if evaluator:
        share = accuracy(evaluator.classifier, images.images, images.labels)
        yield "accuracy", torch.tensor(share, dtype=torch.float64), math.sqrt(share * (1 - share) / len(images))
    features, alone = _features(images, evaluator), {"sync_on_compute": False}  # every process already has all samples
    for names, space, metric in (
        ("gan_train_accuracy", "pixels", metrics.GANTrainAccuracy(data.num_classes, **alone)),
        ("frechet_distance", "embedding", metrics.FrechetDistance(**alone)),
        ("frechet_distance_per_label", "embedding", metrics.LabelFrechetDistance(**alone)),
        ("frechet_distance_random", "random", metrics.FrechetDistance(**alone)),
        ("kernel_distance", "embedding", metrics.KernelDistance(**alone)),
        ("precision recall density coverage", "embedding", metrics.PrecisionRecallDensityCoverage(**alone)),
        ("diversity", "pixels", metrics.Diversity(**alone)),
        ("novelty", "pixels", metrics.Novelty(training.images, training.labels, **alone)),
    ):
        if space not in features:
            continue
        metric.update(*features[space], real=False)
        metric.update(*reference[space], real=True)
        values, errors = metric.compute(), metric.uncertainty().reshape(-1)
        columns = values.T if values.ndim == 2 else values[None]  # one column per name
        for name, column, error in zip(names.split(), columns, errors, strict=True):
            yield name, column, float(error)


def write_nearest(samples: Images, data: ImageDataModule, path: Path) -> None:
    """Saves an image that shows the samples closest to a training image.

    Each row contains four pairs of a sample and its nearest training image. Distances are divided by the mean distance
    between the test images of that label and their nearest training images. Otherwise, we would only see thin digits,
    since those are close to each other anyway.
    """
    pairs: list[tuple[float, Tensor, Tensor]] = []
    for label in samples.labels.unique().tolist():
        mine, training, test = (
            images.images[images.labels == label] for images in (samples, data.train_images, data.val_images)
        )
        if len(training) and len(test):
            found, rows = nearest(mine.flatten(1), training.flatten(1))
            usual = nearest(test.flatten(1), training.flatten(1))[0].mean()
            for row in found.argsort(stable=True)[:PAIRS].tolist():
                pairs.append((float(found[row] / usual), mine[row], training[rows[row]]))
    closest = sorted(pairs, key=lambda pair: pair[0])[:PAIRS]
    gap = torch.full_like(samples.images[0], 255)
    write_png(grid(torch.stack([image for _, *pair in closest for image in (*pair, gap)]), 12), path)


def cell(value: Any) -> str:
    """Formats a number from ``scores.json``, or returns a dash (–) if the value is not a number."""
    if not isinstance(value, int | float):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def with_errors(score: dict[str, Any]) -> tuple[str, str]:
    """Formats a score for the samples and for real images, along with the standard errors."""
    pairs = (score["value"], score["uncertainty"]), (score["real"], score["real_uncertainty"])
    value, real = ("–" if number is None else f"{cell(number)} ± {cell(error)}" for number, error in pairs)
    return value, real


def table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Formats a plain-text table with a name and cells in each row."""
    width = max(20, *(len(head) + 2 for head in heads))
    lines = [("", heads), *rows]
    return "\n".join(f"{name:28}" + "".join(f"{text:>{width}}" for text in cells) for name, cells in lines)
