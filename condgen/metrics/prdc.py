"""Precision, recall, density and coverage."""

import math

import torch
from torch import Tensor

from condgen.metrics.distances import ROWS, distances
from condgen.metrics.set_metric import LabelledFeatures, SetMetric, per_label


def neighbour_radii(features: Tensor, k: int) -> Tensor:
    """Returns the distance of each row of (N, D) to its k-th nearest other row, or to the farthest if N is at most k:
    (N,)."""
    nearest = 1 + min(k, len(features) - 1)  # the nearest row is the row itself
    found = [distances(rows, features).topk(nearest, dim=1, largest=False) for rows in features.split(ROWS)]
    return torch.cat([values[:, -1] for values, _ in found])


def prdc(samples: Tensor, real: Tensor, k_manifold: int = 3, k_density: int = 5) -> Tensor:
    """Precision, recall, density and coverage of samples (N, D) against real images (M, D): (4,), NaN if N or M is 0.

    Each image has a ball that reaches its k-th nearest neighbour in its own set.

    - precision: the fraction of samples that lie in a real image's ball: how many look real.
    - recall: the fraction of real images that lie in a sample's ball: how much of the real variety is generated. One
      outlier among the samples has a large ball and can raise it (both: Kynkäänniemi et al. 2019, arXiv:1904.06991).
    - density: the mean number of real balls that a sample lies in, divided by k. 1 for real images, more if samples
      crowd where real images do.
    - coverage: the fraction of real images whose ball contains a sample. Near 1 - 2**-k for as many new real images, 0
      if all samples are alike (both: Naeem et al. 2020, arXiv:2002.09797).

    Args:
        samples: features of the samples.
        real: features of the real images.
        k_manifold: k of precision and recall.
        k_density: k of density and coverage.
    """
    if not len(samples) or not len(real):
        return torch.full((4,), math.nan, dtype=torch.float64)
    manifold, dense = neighbour_radii(real, k_manifold)[:, None], neighbour_radii(real, k_density)[:, None]
    sample_radii = neighbour_radii(samples, k_manifold)
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
    """:func:`prdc` of each label: (labels, 4)."""

    higher_is_better = True

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(prdc, samples, real)
