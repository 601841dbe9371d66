"""Variance ratio: how much of the real images' variance within a label the generated images have."""

import torch
from torch import Tensor
from torchmetrics import Metric


class VarianceRatio(Metric):
    r"""Pixel variance within a label, summed over pixels and averaged over labels: generated divided by real.

    .. math:: \frac{\sum_y \sum_p \mathrm{Var}(g_p \mid y)}{\sum_y \sum_p \mathrm{Var}(x_p \mid y)}

    0 if all generated images of a label are equal, 1 if they vary as much as the real ones; it does not show whether
    they vary in the right way. A label without images counts as 0 on both sides.

    Args:
        label_means: (K, C, H, W) approximate mean images. They are subtracted before squares are summed, so that
            float32 keeps the digits of a small variance; the value does not depend on them.

    Example:
        >>> ratio = VarianceRatio(torch.zeros(1, 1, 1, 1))
        >>> real = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
        >>> ratio.update(real / 2, real, torch.tensor([0, 0]))
        >>> ratio.compute()
        tensor(0.2500)
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    count: Tensor
    sums: Tensor
    squares: Tensor

    def __init__(self, label_means: Tensor) -> None:
        super().__init__()
        self.label_means = label_means
        classes = len(label_means)
        self.add_state("count", torch.zeros(classes), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(2, classes, label_means[0].numel()), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(2, classes), dist_reduce_fx="sum")  # of generated and of real images
        self.to(label_means.device)

    def update(self, generated: Tensor, real: Tensor, labels: Tensor) -> None:
        """Adds images (N, C, H, W) in [0, 1], generated and real, of the labels (N,)."""
        deviations = (torch.stack([generated, real]) - self.label_means[labels]).flatten(2)  # (2, N, D)
        self.count.index_add_(0, labels, torch.ones_like(labels, dtype=self.count.dtype))
        self.sums.index_add_(1, labels, deviations)
        self.squares.index_add_(1, labels, deviations.square().sum(2))

    def compute(self) -> Tensor:
        """Returns the ratio, a scalar of at least 0; not finite if no label has two real images that differ."""
        count = self.count.clamp(min=1)
        variances = self.squares / count - (self.sums / count[:, None]).square().sum(2)  # (2, K)
        generated, real = variances.sum(1).clamp(min=0)
        return generated / real
