"""Novelty: the distance between samples and the training images."""

from typing import Any

import torch
from torch import Tensor

from condgen.metrics.distances import nearest
from condgen.metrics.set_metric import LabeledFeatures, SetMetric, per_label


class Novelty(SetMetric):
    """Mean distance from a sample to the nearest training image of its label, divided by that of new real images.

    ``compute`` returns one value for each label, with shape (labels,). The value is 0 if the samples are copies of
    training images, and 1 if they are as far from the training images as new real images are. A value far below 1 means
    either that the model has memorized training images, or that the samples are so smooth that they are close to many
    images. To distinguish the two cases, look at the nearest pairs.

    Args:
        features: Features of the training images, with shape (M, …).
        labels: Labels of the training images, with shape (M,).
        **kwargs: Keyword arguments of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, features: Tensor, labels: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training_images = LabeledFeatures(features.cpu(), labels.cpu())

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images. Only the distance from each image to the nearest training image of its label is stored.

        Args:
            features: Features of the images, with shape (N, …).
            labels: Labels of the images, with shape (N,).
            real: Whether the images are real images (True) or samples (False).
        """
        images, found = LabeledFeatures(features.cpu(), labels.cpu()), torch.zeros(len(features), 1)
        for label in images.labels.unique().tolist():
            found[images.labels == label, 0] = nearest(images.of(label), self.training_images.of(label))[0].float()
        super().update(found.to(features.device), labels, real)

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        return per_label(lambda a, b: a.mean() / b.mean(), samples, real)
