"""The Fréchet distance between two sets of features."""

import math

import torch
from torch import Tensor

from condgen.metrics.set_metric import LabelledFeatures, SetMetric, per_label


def frechet_distance(samples: Tensor, real: Tensor) -> Tensor:
    r"""Fréchet distance between the Gaussians of two sets of features (N, D) and (M, D): a scalar, 0 for equal ones.

    .. math:: |\mu_s - \mu_r|^2 + \mathrm{tr}\bigl(\Sigma_s + \Sigma_r - 2 (\Sigma_s \Sigma_r)^{1/2}\bigr)

    It sees wrong images and missing variety, but only in means and covariances, and it grows if sets are small: compare
    it at equal numbers of images (Heusel et al. 2017, "GANs trained by a two time-scale update rule",
    arXiv:1706.08500). NaN if a set has fewer than two images.
    """
    samples, real = samples.double(), real.double()
    if min(len(samples), len(real)) < 2:
        return torch.tensor(math.nan, dtype=torch.float64)
    cov_samples, cov_real = samples.T.cov().reshape(2 * samples.shape[1:]), real.T.cov().reshape(2 * real.shape[1:])
    values, vectors = torch.linalg.eigh(cov_real)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # root @ Σs @ root is symmetric and has the eigenvalues of Σs @ Σr
    mixed = torch.linalg.eigvalsh(root @ cov_samples @ root).clamp(min=0).sqrt().sum()
    means = (samples.mean(0) - real.mean(0)).square().sum()
    return (means + cov_samples.trace() + cov_real.trace() - 2 * mixed).clamp(min=0)


class FrechetDistance(SetMetric):
    """:func:`frechet_distance` of all labels together.

    torchmetrics' FrechetInceptionDistance keeps sums instead of features, so it cannot estimate its standard error.
    """

    higher_is_better = False

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return frechet_distance(samples.features.flatten(1), real.features.flatten(1))


class LabelFrechetDistance(SetMetric):
    """:func:`frechet_distance` of each label: it also sees images that look real but have the wrong label."""

    higher_is_better = False

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(frechet_distance, samples, real)
