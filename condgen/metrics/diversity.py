"""Diversity: how different the samples of one label are."""

from torch import Tensor

from condgen.metrics.distances import mean_pairwise_distance
from condgen.metrics.set_metric import LabelledFeatures, SetMetric, per_label


class Diversity(SetMetric):
    """Mean distance between two samples of a label, divided by that between two real images: (labels,).

    0 if all samples of a label are equal, 1 if they differ as much as real images do, more if they are noisy. It does
    not show whether they differ in the right way: coverage does.

    Example:
        >>> import torch
        >>> diversity = Diversity()
        >>> diversity.update(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]), real=False)
        >>> diversity.update(torch.tensor([[2.0], [4.0]]), torch.tensor([0, 0]), real=True)
        >>> diversity.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(lambda a, b: mean_pairwise_distance(a) / mean_pairwise_distance(b), samples, real)
