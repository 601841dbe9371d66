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
    means = (samples.mean(0) - real.mean(0)).square().sum()
    # R.T @ R is the covariance. The singular values of Rs @ Rr.T are the roots of the eigenvalues of Σs @ Σr.
    root_samples, root_real = (_covariance_root(features) for features in (samples, real))
    mixed = torch.linalg.svdvals(root_samples @ root_real.T).sum()
    return (means + root_samples.square().sum() + root_real.square().sum() - 2 * mixed).clamp(min=0)


def _covariance_root(features: Tensor) -> Tensor:
    """Returns a matrix R of shape (min(N, D), D) such that R.T @ R is the covariance matrix of the features (N, D)."""
    centered = features - features.mean(0)
    return torch.linalg.qr(centered / math.sqrt(len(features) - 1), mode="r").R


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
