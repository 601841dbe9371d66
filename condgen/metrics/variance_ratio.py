"""How much of the real images' variety within a label the generated images have."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class VarianceRatio(Metric):
    r"""Pixel variance within a label, summed over pixels, averaged over labels: generated over real.

    .. math:: \frac{\sum_y \sum_p \mathrm{Var}(g_p \mid y)}{\sum_y \sum_p \mathrm{Var}(x_p \mid y)}

    0 where all generated images of a label are the same, 1 where they vary as much as the real ones do; it says nothing
    of whether they vary in the right way. A label of which no image was seen counts as 0 on both sides.

    Args:
        label_means: (K, C, H, W) images near those that will be seen. They are subtracted before squares are summed,
            so that float32 keeps the digits of a small variance; the value does not depend on them.

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
    generated_sum: Tensor
    generated_square: Tensor
    real_sum: Tensor
    real_square: Tensor

    def __init__(self, label_means: Tensor) -> None:
        super().__init__()
        self.label_means = label_means
        classes = len(label_means)
        self.add_state("count", torch.zeros(classes), dist_reduce_fx="sum")
        for name in ("generated", "real"):
            self.add_state(f"{name}_sum", torch.zeros(classes, label_means[0].numel()), dist_reduce_fx="sum")
            self.add_state(f"{name}_square", torch.zeros(classes), dist_reduce_fx="sum")
        self.to(label_means.device)

    def update(self, generated: Tensor, real: Tensor, labels: Tensor) -> None:
        """Adds images (N, C, H, W) in [0, 1], generated and real, of the labels (N,)."""
        means = self.label_means[labels]
        self.count.index_add_(0, labels, torch.ones_like(labels, dtype=self.count.dtype))
        for name, images in (("generated", generated), ("real", real)):
            deviations = (images - means).flatten(1)
            getattr(self, f"{name}_sum").index_add_(0, labels, deviations)
            getattr(self, f"{name}_square").index_add_(0, labels, deviations.square().sum(1))

    def compute(self) -> Tensor:
        """The ratio, a scalar of at least 0; not finite where no label has two real images that differ."""
        count = self.count.clamp(min=1)
        generated = self.generated_square / count - (self.generated_sum / count[:, None]).square().sum(1)
        real = self.real_square / count - (self.real_sum / count[:, None]).square().sum(1)
        return generated.sum().clamp(min=0) / real.sum().clamp(min=0)
