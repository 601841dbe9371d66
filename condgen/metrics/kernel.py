"""The kernel distance (KID) between two sets of features."""

import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance  # torchmetrics.image would import torch-fidelity

from condgen.metrics.set_metric import LabeledFeatures, SetMetric

MAX_SUBSET = 1000


class KernelDistance(SetMetric):
    """Kernel distance (KID) between sample features and real image features of shape (N, D).

    This is the squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018, "Demystifying
    MMD GANs", arXiv:1801.01401). Unlike the Fréchet distance, it is unbiased: a second set of real images gets a
    distance of 0 on average, no matter how many images there are.

    torchmetrics averages it over 100 pairs of random subsets, with 1,000 images each, or half of the smaller set if
    that is less.
    """

    higher_is_better = False
    _deviation = torch.tensor(torch.nan)

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        size = max(2, min(MAX_SUBSET, len(samples.features) // 2, len(real.features) // 2))
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings("ignore", ".*will save all extracted features.*")
            torch.manual_seed(0)
            metric = KernelInceptionDistance(nn.Identity(), subset_size=size, sync_on_compute=False)
            metric.update(samples.features.flatten(1).double(), real=False)
            metric.update(real.features.flatten(1).double(), real=True)
            mean, self._deviation = metric.compute()
            return mean

    def uncertainty(self) -> Tensor:
        """Returns the standard deviation over the subsets, which is usually reported in papers."""
        self.compute()
        return self._deviation
