"""Novelty: how far samples are from the training images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from condgen.metrics.distances import nearest
from condgen.metrics.set_metric import LabelledFeatures, SetMetric, per_label


class Novelty(SetMetric):
    """Distance to the nearest training image of the label, samples over real images not trained on: (labels,).

    0 where samples are copies of training images, 1 where they are as far from them as new real images are. Far below 1
    means learnt by heart, or images so smooth that they are near everything: look at the nearest pairs.

    Args:
        features: of the training images: (M, …).
        labels: theirs: (M,).
        **kwargs: those of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, features: Tensor, labels: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training_images = LabelledFeatures(features.cpu(), labels.cpu())

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images; kept are their distances to the nearest training image of their label."""
        mine, found = LabelledFeatures(features.cpu(), labels.cpu()), torch.zeros(len(features), 1)
        for label in mine.labels.unique().tolist():
            found[mine.labels == label, 0] = nearest(mine.of(label), self.training_images.of(label))[0].float()
        super().update(found.to(features.device), labels, real)

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        return per_label(lambda a, b: a.mean() / b.mean(), samples, real)
