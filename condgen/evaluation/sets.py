"""Comparing two sets of images: pure functions on their features, and the metrics that collect the sets.

A feature space is anything that turns an image into D numbers: pixels, a classifier's embedding, random convolutions.
Distances are computed in float64 and in stretches of rows: memory grows with the number of images, never its square.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.kid import KernelInceptionDistance  # not from torchmetrics.image, which wants torch-fidelity
from torchmetrics.utilities import dim_zero_cat

from condgen.noise import permutation

ROWS = 1000  # of distances that are in memory at once
HALVES = 20  # by which a score's uncertainty is told


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N, M) float64 between the rows of (N, D) and of (M, D).

    They are exact for whole numbers, and 0 between equal rows.
    """
    a, b = a.double(), b.double()
    sizes = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = torch.addmm(sizes, a, b.T, alpha=-2)
    return squares.masked_fill_(squares < 1e-13 * sizes, 0).sqrt_()  # smaller is rounding


def frechet_distance(samples: Tensor, real: Tensor) -> Tensor:
    r"""Fréchet distance between the Gaussians of two sets of features (N, D) and (M, D): a scalar, 0 for equal ones.

    .. math:: |\mu_s - \mu_r|^2 + \mathrm{tr}\bigl(\Sigma_s + \Sigma_r - 2 (\Sigma_s \Sigma_r)^{1/2}\bigr)

    Small is good. It sees wrong images and missing variety alike, but only in means and covariances, and it grows where
    sets are small: compare it at equal numbers, and with that of real images (Heusel et al. 2017, "GANs trained by a
    two time-scale update rule"). NaN where a set has fewer than two images.
    """
    samples, real = samples.double(), real.double()
    if min(len(samples), len(real)) < 2:
        return torch.tensor(math.nan, dtype=torch.float64)
    of_samples, of_real = samples.T.cov().reshape(2 * samples.shape[1:]), real.T.cov().reshape(2 * real.shape[1:])
    values, vectors = torch.linalg.eigh(of_real)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # root @ Σs @ root is symmetric and has the eigenvalues of Σs @ Σr
    mixed = torch.linalg.eigvalsh(root @ of_samples @ root).clamp(min=0).sqrt().sum()
    means = (samples.mean(0) - real.mean(0)).square().sum()
    return (means + of_samples.trace() + of_real.trace() - 2 * mixed).clamp(min=0)


def neighbour_radii(features: Tensor, k: int) -> Tensor:
    """The distance of each of (N, D) to its k-th nearest other one: (N,); k is at most N - 1, 0 gives 0."""
    nearest = 1 + min(k, len(features) - 1)  # the first is itself
    found = [distances(rows, features).topk(nearest, dim=1, largest=False) for rows in features.split(ROWS)]
    return torch.cat([values[:, -1] for values, _ in found])


def prdc(samples: Tensor, real: Tensor, k_manifold: int = 3, k_density: int = 5) -> Tensor:
    """Precision, recall, density and coverage of samples (N, D) against real images (M, D): (4,).

    Each image has a ball that reaches its k-th nearest neighbour in its own set.

    - precision: the part of the samples that lie in a real image's ball. How many look real.
    - recall: the part of the real images that lie in a sample's ball. How much of the real variety can be drawn; one
      outlier among the samples, with its large ball, can raise it (both: Kynkäänniemi et al. 2019, k = 3).
    - density: the number of real balls that a sample lies in, over k. 1 for real images, and more where samples crowd
      where real images do.
    - coverage: the part of the real images whose ball has a sample. Near 1 - 2**-k for as many new real images, 0
      where samples are all alike (both: Naeem et al. 2020, k = 5).

    Args:
        samples: features of the samples. All four are NaN where there are none.
        real: features of the real images.
        k_manifold: k of precision and recall.
        k_density: k of density and coverage. Where a set has no k + 1 images, all its others are a ball's neighbours.
    """
    if not len(samples) or not len(real):
        return torch.full((4,), math.nan, dtype=torch.float64)
    manifold, dense = neighbour_radii(real, k_manifold)[:, None], neighbour_radii(real, k_density)[:, None]
    of_samples = neighbour_radii(samples, k_manifold)
    precise = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    balls = recalled = covered = 0
    for start in range(0, len(real), ROWS):
        rows = slice(start, start + ROWS)
        between = distances(real[rows], samples)
        precise |= (between <= manifold[rows]).any(0)
        inside = between <= dense[rows]
        balls += int(inside.sum())
        covered += int(inside.any(1).sum())
        recalled += int((between <= of_samples).any(1).sum())
    k = max(1, min(k_density, len(real) - 1))
    precision, density = float(precise.double().mean()), balls / (k * len(samples))
    return torch.tensor([precision, recalled / len(real), density, covered / len(real)], dtype=torch.float64)


def mean_pairwise_distance(features: Tensor) -> Tensor:
    """The mean distance between two different ones of (N, D): a scalar; NaN where there is only one."""
    total = torch.stack([distances(rows, features).sum() for rows in features.split(ROWS)]).sum()
    return total / (len(features) * (len(features) - 1))


def nearest(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of (N, D) the distance to the nearest of (M, D), and which one that is: (N,) and (N,).

    NaN, and the first, where there is none.
    """
    if not len(references):
        return torch.full((len(images),), math.nan, dtype=torch.float64), torch.zeros(len(images), dtype=torch.long)
    found = [distances(rows, references).min(dim=1) for rows in images.split(ROWS)]
    return torch.cat([values for values, _ in found]), torch.cat([rows for _, rows in found])


class LabelledFeatures(NamedTuple):
    """Features of images and their labels."""

    features: Tensor  # (N, D), or images (N, C, H, W)
    labels: Tensor  # (N,) int64

    def of(self, label: int) -> Tensor:
        return self.features[self.labels == label].flatten(1)

    def half(self, number: int) -> LabelledFeatures:
        """A random half of every label's, at least one; another ``number``, another half."""
        order = permutation(0, len(self.labels), number)
        of_label = [order[self.labels[order] == label] for label in self.labels.unique()]
        rows = torch.cat([rows[: max(1, len(rows) // 2)] for rows in of_label])
        return LabelledFeatures(self.features[rows], self.labels[rows])


def per_label(
    function: Callable[[Tensor, Tensor], Tensor], samples: LabelledFeatures, real: LabelledFeatures
) -> Tensor:
    """``function(samples, real)`` of every label that is among the real images: (labels, …)."""
    return torch.stack([function(samples.of(label), real.of(label)) for label in real.labels.unique().tolist()])


class SetMetric(Metric, ABC):
    """A score of a set of samples against a set of real images, both with labels.

    ``update`` takes them in any order and number; ``compute`` gives the score, a scalar, or one of each label; with
    several processes, of the sets of all. The samples need to have every label that the real images have.
    """

    full_state_update = False
    is_differentiable = False

    sample_features: list[Tensor]
    sample_labels: list[Tensor]
    real_features: list[Tensor]
    real_labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("sample_features", "sample_labels", "real_features", "real_labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images: their features (N, …), their labels (N,), and whether they are real ones or samples."""
        (self.real_features if real else self.sample_features).append(features)
        (self.real_labels if real else self.sample_labels).append(labels)

    def _sets(self) -> tuple[LabelledFeatures, LabelledFeatures]:
        samples, labels, real, real_labels = (
            dim_zero_cat(state).cpu()
            for state in (self.sample_features, self.sample_labels, self.real_features, self.real_labels)
        )
        return LabelledFeatures(samples, labels), LabelledFeatures(real, real_labels)

    @abstractmethod
    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        """The score: a scalar, or (labels, …)."""

    def compute(self) -> Tensor:
        return self.score(*self._sets())

    def uncertainty(self) -> Tensor:
        """The standard error of the score (of its mean over labels), by what it is for random halves of both sets.

        A half is drawn without replacement: a mean over it varies around that over all images as much as that does
        around the truth, and no image is its own double, which would deceive what counts neighbours. Where the two sets
        hardly differ, halves overstate the error of a Fréchet distance and of precision up to twofold. It is that of
        this process's images; NaN where a label has fewer than four.
        """
        samples, real = self._sets()
        scores = [self.score(samples.half(2 * n), real.half(2 * n + 1)) for n in range(HALVES)]
        error = torch.stack([score.mean(0) if score.ndim else score for score in scores]).std(0)
        fewest = min(int(images.labels.unique(return_counts=True)[1].min()) for images in (samples, real))
        return error if fewest >= 4 else torch.full_like(error, math.nan)


class FrechetDistance(SetMetric):
    """:func:`frechet_distance`, of all labels together.

    Not torchmetrics' FrechetInceptionDistance, which keeps sums instead of features and so cannot tell its uncertainty.
    """

    higher_is_better = False

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return frechet_distance(samples.features.flatten(1), real.features.flatten(1))


class LabelFrechetDistance(SetMetric):
    """:func:`frechet_distance` of each label: it also sees what is right for a digit, but not for this one."""

    higher_is_better = False

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(frechet_distance, samples, real)


class KernelDistance(SetMetric):
    """Kernel distance (KID) of features (N, D): torchmetrics' mean over 100 pairs of subsets.

    The squared maximum mean discrepancy under the kernel (x·y / D + 1)³; unlike the Fréchet distance it is unbiased, so
    that real images have 0 on average, at any number (Bińkowski et al. 2018, "Demystifying MMD GANs").

    Args:
        subset_size: at most; half of the smaller set, where that is less.
        **kwargs: those of ``torchmetrics.Metric``.
    """

    higher_is_better = False

    def __init__(self, subset_size: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.subset_size = subset_size
        self._deviation = torch.tensor(math.nan)

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        size = max(2, min(self.subset_size, len(samples.features) // 2, len(real.features) // 2))
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings("ignore", ".*will save all extracted features.*")
            torch.manual_seed(0)
            metric = KernelInceptionDistance(nn.Identity(), subset_size=size, sync_on_compute=False)
            metric.update(samples.features.flatten(1).double(), real=False)
            metric.update(real.features.flatten(1).double(), real=True)
            mean, self._deviation = metric.compute()
            return mean

    def uncertainty(self) -> Tensor:
        """The distance's deviation over the subsets, which is what is reported beside it."""
        self.compute()
        return self._deviation


class PrecisionRecallDensityCoverage(SetMetric):
    """:func:`prdc` of each label: (labels, 4)."""

    higher_is_better = True

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(prdc, samples, real)


class Diversity(SetMetric):
    """Mean distance of two samples of a label over that of two real images: (labels,), a scalar for one label.

    0 where all samples of a label are alike, 1 where they differ as much as real images do, more where they are noisy.
    It says nothing of whether they differ in the right way: coverage does.

    Example:
        >>> diversity = Diversity()
        >>> diversity.update(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]), real=False)
        >>> diversity.update(torch.tensor([[2.0], [4.0]]), torch.tensor([0, 0]), real=True)
        >>> diversity.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(lambda a, b: mean_pairwise_distance(a) / mean_pairwise_distance(b), samples, real)


class Novelty(SetMetric):
    """Distance to the nearest training image of the label, samples over real images not trained on: (labels,).

    0 where samples are copies of training images, 1 where they are as far from them as new real images are. Far below 1
    means learnt by heart, or images so smooth that they are near everything: look at the nearest pairs.

    Args:
        features: of the training images: (M, …).
        labels: theirs: (M,).
        **kwargs: those of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, features: Tensor, labels: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training_images = LabelledFeatures(features.cpu(), labels.cpu())

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images; kept are their distances to the nearest training image of their label."""
        mine, found = LabelledFeatures(features.cpu(), labels.cpu()), torch.zeros(len(features), 1)
        for label in mine.labels.unique().tolist():
            found[mine.labels == label, 0] = nearest(mine.of(label), self.training_images.of(label))[0].float()
        super().update(found.to(features.device), labels, real)

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(lambda a, b: a.mean() / b.mean(), samples, real)
