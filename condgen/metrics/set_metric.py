"""Base class of the metrics that compare a set of samples with a set of real images.

The metrics compare feature vectors of images. The features can be pixels, the embeddings of a classifier or the outputs
of random convolutions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from condgen.noise import permutation

NUM_SPLITS = 20  # random half-splits for the standard error


class LabeledFeatures(NamedTuple):
    """Features of images and their labels."""

    features: Tensor  # (N, D), or images (N, C, H, W)
    labels: Tensor  # (N,) int64

    def of(self, label: int) -> Tensor:
        """Returns the features of all images of a label, with shape (n, D)."""
        return self.features[self.labels == label].flatten(1)

    def half(self, number: int) -> LabeledFeatures:
        """Returns a random half of each label's images, but at least one image.

        Args:
            number: Seed of the random choice.
        """
        order = permutation(0, len(self.labels), number)
        of_label = [order[self.labels[order] == label] for label in self.labels.unique()]
        rows = torch.cat([rows[: max(1, len(rows) // 2)] for rows in of_label])
        return LabeledFeatures(self.features[rows], self.labels[rows])


def per_label(function: Callable[[Tensor, Tensor], Tensor], samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
    """Computes a score separately for each label that the real images have.

    Args:
        function: Function of the features (n, D) of the samples and (m, D) of the real images of a label.
        samples: All samples.
        real: All real images.

    Returns:
        The scores of the labels in increasing order, with shape (labels, …).
    """
    return torch.stack([function(samples.of(label), real.of(label)) for label in real.labels.unique().tolist()])


class SetMetric(Metric, ABC):
    """Base class of scores that compare a set of samples with a set of real images. Both sets have labels.

    ``update`` adds images, in any order. ``compute`` returns the score of the images of all processes, which is a
    scalar or has one value for each label. If the real images have a label, the samples must have it too.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("sample_features", "sample_labels", "real_features", "real_labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images.

        Args:
            features: Features of the images, with shape (N, …).
            labels: Labels of the images, with shape (N,).
            real: Whether the images are real images (True) or samples (False).
        """
        kind = "real" if real else "sample"
        getattr(self, f"{kind}_features").append(features)
        getattr(self, f"{kind}_labels").append(labels)

    def collected(self, kind: Literal["sample", "real"]) -> LabeledFeatures:
        """Returns all samples, or all real images, that were added so far, on the CPU."""
        features, labels = (dim_zero_cat(getattr(self, f"{kind}_{part}")).cpu() for part in ("features", "labels"))
        return LabeledFeatures(features, labels)

    @abstractmethod
    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        """Computes the score of samples, compared with real images: a scalar, or a tensor with shape (labels, …)."""

    def compute(self) -> Tensor:
        return self.score(self.collected("sample"), self.collected("real"))

    def uncertainty(self) -> Tensor:
        """Estimates the standard error of the score, or of its mean over labels.

        The estimate is the standard deviation of the scores of random halves of both sets. Halves are chosen without
        replacement, because a bootstrap would duplicate images, and duplicates distort nearest-neighbor scores. If the
        two sets hardly differ, this method overestimates the error of precision and of a Fréchet distance by a factor
        of up to 2.

        Only the images of this process are used. The result is NaN if a label has fewer than four samples or real
        images.
        """
        samples, real = self.collected("sample"), self.collected("real")
        scores = [self.score(samples.half(2 * n), real.half(2 * n + 1)) for n in range(NUM_SPLITS)]
        error = torch.stack([score.mean(0) if score.ndim else score for score in scores]).std(0)
        fewest = min(int(images.labels.unique(return_counts=True)[1].min()) for images in (samples, real))
        return error if fewest >= 4 else torch.full_like(error, math.nan)
