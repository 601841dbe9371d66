"""Novelty: how far samples are from the training images."""

from typing import Any

import torch
from torch import Tensor

from condgen.metrics.distances import nearest
from condgen.metrics.set_metric import LabelledFeatures, SetMetric, per_label


class Novelty(SetMetric):
    """Mean distance to the nearest training image of the label, samples divided by unseen real images: (labels,).

    0 if samples are copies of training images, 1 if they are as far from them as new real images are. A value far below
    1 means memorised images, or images so smooth that they are near everything: look at the nearest pairs.

    Args:
        features: of the training images: (M, …).
        labels: of the training images: (M,).
        **kwargs: those of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, features: Tensor, labels: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training_images = LabelledFeatures(features.cpu(), labels.cpu())

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images. Only their distances to the nearest training image of their label are kept."""
        images, found = LabelledFeatures(features.cpu(), labels.cpu()), torch.zeros(len(features), 1)
        for label in images.labels.unique().tolist():
            found[images.labels == label, 0] = nearest(images.of(label), self.training_images.of(label))[0].float()
        super().update(found.to(features.device), labels, real)

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(lambda a, b: a.mean() / b.mean(), samples, real)
