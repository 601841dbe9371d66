"""Variance ratio, which compares the pixel variance of generated images with that of real images."""

import torch
from torch import Tensor
from torchmetrics import Metric


class VarianceRatio(Metric):
    """Pixel variance of generated images within a label, divided by that of real images.

    Given generated images g and real images x, the variances are summed over labels y and pixels p:

        Σ_y Σ_p Var(g_p | y) / Σ_y Σ_p Var(x_p | y)

    The ratio is 0 if all generated images of a label are identical, and 1 if they vary as much as real images. It
    doesn't show whether they vary in the same way. Labels without images are ignored.

    Args:
        label_means: The approximate mean image per label, of shape (K, C, H, W). It is subtracted before the squares
            are summed, since small variances would otherwise get lost in float32. This doesn't change the ratio.

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
        self.add_state("squares", torch.zeros(2, classes), dist_reduce_fx="sum")  # rows: generated, real
        self.to(label_means.device)

    def update(self, generated: Tensor, real: Tensor, labels: Tensor) -> None:
        """Adds a batch of generated images and a batch of real images with the same labels.

        Args:
            generated: Generated images of shape (N, C, H, W) in [0, 1].
            real: Real images of shape (N, C, H, W) in [0, 1].
            labels: The labels of both batches, of shape (N,).
        """
        deviations = (torch.stack([generated, real]) - self.label_means[labels]).flatten(2)  # (2, N, D)
        self.count.index_add_(0, labels, torch.ones_like(labels, dtype=self.count.dtype))
        self.sums.index_add_(1, labels, deviations)
        self.squares.index_add_(1, labels, deviations.square().sum(2))

    def compute(self) -> Tensor:
        """Computes the ratio, which is not finite if all real images with the same label are identical."""
        count = self.count.clamp(min=1)
        variances = self.squares / count - (self.sums / count[:, None]).square().sum(2)  # (2, K)
        generated, real = variances.sum(1).clamp(min=0)
        return generated / real
