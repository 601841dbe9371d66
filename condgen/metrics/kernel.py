"""The kernel distance between two sets of features."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance  # not from torchmetrics.image, which wants torch-fidelity

from condgen.metrics.set_metric import LabelledFeatures, SetMetric


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
