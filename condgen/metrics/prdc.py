"""Precision, recall, density and coverage."""

import math

import torch
from torch import Tensor

from condgen.metrics.distances import ROWS, distances
from condgen.metrics.set_metric import LabeledFeatures, SetMetric, per_label


def neighbor_radii(features: Tensor, k: int) -> Tensor:
    """Computes the distance from each vector of ``features`` (N, D) to its k-th nearest other vector, with shape (N,).

    If N is at most k, it is the distance to the farthest vector.
    """
    nearest = 1 + min(k, len(features) - 1)  # the nearest vector is the vector itself
    found = [distances(rows, features).topk(nearest, dim=1, largest=False) for rows in features.split(ROWS)]
    return torch.cat([values[:, -1] for values, _ in found])


def prdc(samples: Tensor, real: Tensor, k_manifold: int = 3, k_density: int = 5) -> Tensor:
    """Computes precision, recall, density and coverage of samples, compared with real images.

    All four use balls: each image is the center of a ball whose radius is the distance to its k-th nearest neighbor in
    the same set.

    - Precision is the fraction of samples that are inside the ball of a real image. It measures how many samples look
      real.
    - Recall is the fraction of real images that are inside the ball of a sample. It measures how much of the variety of
      the real images is generated. An outlier among the samples has a large ball, so it can increase recall.
      (Kynkäänniemi et al. 2019, arXiv:1904.06991, define precision and recall.)
    - Density is the mean number of real images whose balls contain a sample, divided by k. It is about 1 for real
      images, and larger if samples concentrate in regions with many real images.
    - Coverage is the fraction of real images whose balls contain a sample. It is about ``1 - 2**-k`` for the same
      number of new real images, and about 0 if all samples are alike. (Naeem et al. 2020, arXiv:2002.09797, define
      density and coverage.)

    Args:
        samples: Features of the samples, with shape (N, D).
        real: Features of the real images, with shape (M, D).
        k_manifold: The number k of precision and recall.
        k_density: The number k of density and coverage.

    Returns:
        The four values, with shape (4,). They are NaN if N or M is 0.
    """
    if not len(samples) or not len(real):
        return torch.full((4,), math.nan, dtype=torch.float64)
    manifold, dense = neighbor_radii(real, k_manifold)[:, None], neighbor_radii(real, k_density)[:, None]
    sample_radii = neighbor_radii(samples, k_manifold)
    is_precise = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    balls = recalled = covered = 0
    for start in range(0, len(real), ROWS):
        rows = slice(start, start + ROWS)
        between = distances(real[rows], samples)
        is_precise |= (between <= manifold[rows]).any(0)
        is_inside = between <= dense[rows]
        balls += int(is_inside.sum())
        covered += int(is_inside.any(1).sum())
        recalled += int((between <= sample_radii).any(1).sum())
    k = max(1, min(k_density, len(real) - 1))
    precision, density = float(is_precise.double().mean()), balls / (k * len(samples))
    return torch.tensor([precision, recalled / len(real), density, covered / len(real)], dtype=torch.float64)


class PrecisionRecallDensityCoverage(SetMetric):
    """:func:`prdc` of the samples of each label, with shape (labels, 4)."""

    higher_is_better = True

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        return per_label(prdc, samples, real)
