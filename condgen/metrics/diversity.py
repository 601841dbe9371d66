"""Diversity: how much the samples of a label differ from each other."""

from torch import Tensor

from condgen.metrics.distances import mean_pairwise_distance
from condgen.metrics.set_metric import LabeledFeatures, SetMetric, per_label


class Diversity(SetMetric):
    """Mean distance between two samples of a label, divided by the mean distance between two real images of the label.

    ``compute`` returns one value for each label, with shape (labels,). The value is 0 if all samples of the label are
    equal, 1 if they differ as much as real images do, and above 1 if they are noisy. Diversity does not show whether
    samples differ in the same way as real images. Use coverage to measure that.

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
