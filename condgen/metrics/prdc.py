"""Precision, recall, density, and coverage."""

import math

import torch
from torch import Tensor

from condgen.metrics.distances import ROWS, distances
from condgen.metrics.set_metric import LabeledFeatures, SetMetric, per_label


def neighbor_radii(features: Tensor, k: int) -> Tensor:
    """Computes the distance from each vector of ``features`` (N, D) to its k-th nearest neighbor, with shape (N,).

    If there are fewer than k neighbors, the farthest one is used.
    """
    nearest = 1 + min(k, len(features) - 1)  # each vector is its own nearest neighbor
    found = [distances(rows, features).topk(nearest, dim=1, largest=False) for rows in features.split(ROWS)]
    return torch.cat([values[:, -1] for values, _ in found])


def prdc(samples: Tensor, real: Tensor, k_manifold: int = 3, k_density: int = 5) -> Tensor:
    """Computes the precision, recall, density, and coverage of samples with respect to real images.

    Each image is the center of a ball that reaches to its k-th nearest neighbor in the same set.

    - Precision is the fraction of samples inside the ball of at least one real image. It measures how many look real.
    - Recall is the fraction of real images inside the ball of at least one sample. It measures how much of the variety
      of the real images is covered. Outliers among the samples can increase recall because their balls are large.
    - Density is the average number of real-image balls that a sample falls into, divided by k. It is about 1 for real
      images, and larger if the samples are concentrated in regions with lots of real images.
    - Coverage is the fraction of real images with at least one sample in their ball. It is about ``1 - 2**-k`` for the
      same number of new real images, and close to 0 if all samples look alike.

    See Kynkäänniemi et al. 2019, arXiv:1904.06991, for precision and recall, and Naeem et al. 2020, arXiv:2002.09797,
    for density and coverage.

    Args:
        samples: Sample features of shape (N, D).
        real: Real image features of shape (M, D).
        k_manifold: The number of neighbors k for precision and recall.
        k_density: The number of neighbors k for density and coverage.

    Returns:
        A tensor of shape (4,). All values are NaN if there are no samples or no real images.
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
    """:func:`prdc` per label, with shape (labels, 4)."""

    higher_is_better = True

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        return per_label(prdc, samples, real)
