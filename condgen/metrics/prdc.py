"""Precision, recall, density and coverage."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from condgen.metrics.distances import ROWS, distances
from condgen.metrics.set_metric import LabelledFeatures, SetMetric, per_label


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


class PrecisionRecallDensityCoverage(SetMetric):
    """:func:`prdc` of each label: (labels, 4)."""

    higher_is_better = True

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(prdc, samples, real)
