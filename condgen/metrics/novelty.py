"""Novelty, which measures how far samples are from the training images."""

from typing import Any

import torch
from torch import Tensor

from condgen.metrics.distances import nearest
from condgen.metrics.set_metric import LabeledFeatures, SetMetric, per_label


class Novelty(SetMetric):
    """Mean distance from samples to the nearest training images, relative to that of new real images.

    Only training images with the same label are considered. ``compute`` returns a tensor of shape (labels,) with one
    value per label. The value is 0 if the samples are copies of training images, and 1 if they are as far away as new
    real images. If it is far below 1, either the model has memorized training images, or the samples are so smooth that
    they are close to many images. Look at the nearest pairs to find out which one it is.

    Args:
        features: Training image features of shape (M, …).
        labels: Training labels of shape (M,).
        **kwargs: Additional keyword arguments for ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, features: Tensor, labels: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training_images = LabeledFeatures(features.cpu(), labels.cpu())

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds a batch of images, storing only their distance to the nearest training image of the same label.

        Args:
            features: Image features of shape (N, …).
            labels: Labels of shape (N,).
            real: Whether the images are real or samples.
        """
        images, found = LabeledFeatures(features.cpu(), labels.cpu()), torch.zeros(len(features), 1)
        for label in images.labels.unique().tolist():
            found[images.labels == label, 0] = nearest(images.of(label), self.training_images.of(label))[0].float()
        super().update(found.to(features.device), labels, real)

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        return per_label(lambda a, b: a.mean() / b.mean(), samples, real)
