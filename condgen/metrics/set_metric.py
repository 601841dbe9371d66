"""Base class for metrics that compare samples with real images.

These metrics work on feature vectors, e.g. raw pixels, classifier embeddings, or the outputs of random convolutions.
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
    """Image features along with their labels."""

    features: Tensor  # (N, D), or images (N, C, H, W)
    labels: Tensor  # (N,) int64

    def of(self, label: int) -> Tensor:
        """Returns the features of all images with the given label, flattened to shape (n, D)."""
        return self.features[self.labels == label].flatten(1)

    def half(self, number: int) -> LabeledFeatures:
        """Returns a random half of the images per label (at least one), using ``number`` as the seed."""
        order = permutation(0, len(self.labels), number)
        of_label = [order[self.labels[order] == label] for label in self.labels.unique()]
        rows = torch.cat([rows[: max(1, len(rows) // 2)] for rows in of_label])
        return LabeledFeatures(self.features[rows], self.labels[rows])


def per_label(function: Callable[[Tensor, Tensor], Tensor], samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
    """Computes a score separately for each label of the real images.

    Args:
        function: A function that takes the features of the samples (n, D) and of the real images (m, D) for one label.

    Returns:
        A tensor of shape (labels, …), sorted by label.
    """
    return torch.stack([function(samples.of(label), real.of(label)) for label in real.labels.unique().tolist()])


class SetMetric(Metric, ABC):
    """Base class for metrics that compare a set of samples with a set of real images, both with labels.

    Use ``update`` to add images in any order. ``compute`` then returns the score over all processes, which is either a
    scalar or a tensor with one value per label. The samples must include all of the labels of the real images.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("sample_features", "sample_labels", "real_features", "real_labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds a batch of images.

        Args:
            features: Image features of shape (N, …).
            labels: Labels of shape (N,).
            real: Whether the images are real or samples.
        """
        kind = "real" if real else "sample"
        getattr(self, f"{kind}_features").append(features)
        getattr(self, f"{kind}_labels").append(labels)

    def collected(self, kind: Literal["sample", "real"]) -> LabeledFeatures:
        """Returns all samples or all real images added so far, on the CPU."""
        features, labels = (dim_zero_cat(getattr(self, f"{kind}_{part}")).cpu() for part in ("features", "labels"))
        return LabeledFeatures(features, labels)

    @abstractmethod
    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        """Computes the score, which is either a scalar or a tensor of shape (labels, …)."""

    def compute(self) -> Tensor:
        return self.score(self.collected("sample"), self.collected("real"))

    def uncertainty(self) -> Tensor:
        """Estimates the standard error of the score, or of its mean over labels.

        This is the standard deviation of the scores over random halves of both sets. We don't use bootstrapping because
        it duplicates images, which distorts nearest-neighbor scores. Note that the error of precision and of a Fréchet
        distance can be overestimated by up to a factor of 2 if the two sets are very similar.

        Only uses the images on the current process. Returns NaN if a label has fewer than four samples or real images.
        """
        samples, real = self.collected("sample"), self.collected("real")
        scores = [self.score(samples.half(2 * n), real.half(2 * n + 1)) for n in range(NUM_SPLITS)]
        error = torch.stack([score.mean(0) if score.ndim else score for score in scores]).std(0)
        fewest = min(int(images.labels.unique(return_counts=True)[1].min()) for images in (samples, real))
        return error if fewest >= 4 else torch.full_like(error, math.nan)
