"""The Fréchet distance between two sets of features."""

import math

import torch
from torch import Tensor

from condgen.metrics.set_metric import LabeledFeatures, SetMetric, per_label


def frechet_distance(samples: Tensor, real: Tensor) -> Tensor:
    """Computes the Fréchet distance between two Gaussians, one fitted to each set of features.

    Given the means μ and the covariance matrices Σ of the samples (s) and the real images (r), this is

        |μ_s - μ_r|² + tr(Σ_s + Σ_r - 2 (Σ_s Σ_r)^(1/2))

    (Heusel et al. 2017, "GANs trained by a two time-scale update rule", arXiv:1706.08500). It is 0 if the Gaussians are
    identical. The distance can detect both unrealistic images and missing variety, but only if they affect the means or
    covariances. It also gets larger when the sets are small, so only compare distances for the same number of images.

    Args:
        samples: Sample features of shape (N, D).
        real: Real image features of shape (M, D).

    Returns:
        A scalar, which is NaN if one of the sets has fewer than two images.
    """
    samples, real = samples.double(), real.double()
    if min(len(samples), len(real)) < 2:
        return torch.tensor(math.nan, dtype=torch.float64)
    cov_samples, cov_real = samples.T.cov().reshape(2 * samples.shape[1:]), real.T.cov().reshape(2 * real.shape[1:])
    values, vectors = torch.linalg.eigh(cov_real)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # root @ Σs @ root is symmetric and has the same eigenvalues as Σs @ Σr
    mixed = torch.linalg.eigvalsh(root @ cov_samples @ root).clamp(min=0).sqrt().sum()
    means = (samples.mean(0) - real.mean(0)).square().sum()
    return (means + cov_samples.trace() + cov_real.trace() - 2 * mixed).clamp(min=0)


class FrechetDistance(SetMetric):
    """:func:`frechet_distance` between all samples and all real images, ignoring the labels.

    We don't use FrechetInceptionDistance from torchmetrics because it only stores sums, which makes it impossible to
    estimate the standard error.
    """

    higher_is_better = False

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        return frechet_distance(samples.features.flatten(1), real.features.flatten(1))


class LabelFrechetDistance(SetMetric):
    """:func:`frechet_distance` between samples and real images per label, with shape (labels,).

    Unlike :class:`FrechetDistance`, this also catches images that look real but have the wrong label.
    """

    higher_is_better = False

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        return per_label(frechet_distance, samples, real)
