"""Diversity, which measures how different samples with the same label are from each other."""

from torch import Tensor

from condgen.metrics.distances import mean_pairwise_distance
from condgen.metrics.set_metric import LabeledFeatures, SetMetric, per_label


class Diversity(SetMetric):
    """Mean distance between samples with the same label, relative to that between real images.

    ``compute`` returns a tensor of shape (labels,) with one value per label. The value is 0 if all samples are
    identical, 1 if they vary as much as real images, and greater than 1 if they are noisy. Note that diversity doesn't
    show whether samples vary in the same way as real images. Use coverage to measure that.

    Example:
        >>> import torch
        >>> diversity = Diversity()
        >>> diversity.update(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]), real=False)
        >>> diversity.update(torch.tensor([[2.0], [4.0]]), torch.tensor([0, 0]), real=True)
        >>> diversity.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        return per_label(lambda a, b: mean_pairwise_distance(a) / mean_pairwise_distance(b), samples, real)
