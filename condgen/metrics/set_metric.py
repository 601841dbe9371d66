"""The base class of the metrics that compare a set of samples with a set of real images.

They work in any feature space, which turns an image into D numbers: pixels, a classifier's embedding, random
convolutions.
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


class LabelledFeatures(NamedTuple):
    """Features of images and their labels."""

    features: Tensor  # (N, D), or images (N, C, H, W)
    labels: Tensor  # (N,) int64

    def of(self, label: int) -> Tensor:
        """Returns the features of a label: (n, D)."""
        return self.features[self.labels == label].flatten(1)

    def half(self, number: int) -> LabelledFeatures:
        """Returns a random half of each label's images, at least one. Each ``number`` gives another half."""
        order = permutation(0, len(self.labels), number)
        of_label = [order[self.labels[order] == label] for label in self.labels.unique()]
        rows = torch.cat([rows[: max(1, len(rows) // 2)] for rows in of_label])
        return LabelledFeatures(self.features[rows], self.labels[rows])


def per_label(
    function: Callable[[Tensor, Tensor], Tensor], samples: LabelledFeatures, real: LabelledFeatures
) -> Tensor:
    """``function(samples, real)`` of every label of the real images: (labels, …)."""
    return torch.stack([function(samples.of(label), real.of(label)) for label in real.labels.unique().tolist()])


class SetMetric(Metric, ABC):
    """A score of a set of samples against a set of real images, both with labels.

    ``update`` adds images in any order. ``compute`` returns the score, a scalar or one for each label, of the images of
    all processes. The samples must have every label that the real images have.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("sample_features", "sample_labels", "real_features", "real_labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images: their features (N, …), their labels (N,), and whether they are real ones or samples."""
        kind = "real" if real else "sample"
        getattr(self, f"{kind}_features").append(features)
        getattr(self, f"{kind}_labels").append(labels)

    def collected(self, kind: Literal["sample", "real"]) -> LabelledFeatures:
        """All samples, or all real images, that were added, on the CPU."""
        features, labels = (dim_zero_cat(getattr(self, f"{kind}_{part}")).cpu() for part in ("features", "labels"))
        return LabelledFeatures(features, labels)

    @abstractmethod
    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        """Returns the score: a scalar, or (labels, …)."""

    def compute(self) -> Tensor:
        return self.score(self.collected("sample"), self.collected("real"))

    def uncertainty(self) -> Tensor:
        """Returns the standard error of the score (of its mean over labels), from the scores of random halves of both
        sets.

        Halves are chosen without replacement, because a bootstrap would give images duplicates, which distort
        nearest-neighbour scores. If the two sets hardly differ, halves overstate the error of a Fréchet distance and of
        precision up to twofold. Only this process's images count. NaN if a label has fewer than four.
        """
        samples, real = self.collected("sample"), self.collected("real")
        scores = [self.score(samples.half(2 * n), real.half(2 * n + 1)) for n in range(NUM_SPLITS)]
        error = torch.stack([score.mean(0) if score.ndim else score for score in scores]).std(0)
        fewest = min(int(images.labels.unique(return_counts=True)[1].min()) for images in (samples, real))
        return error if fewest >= 4 else torch.full_like(error, math.nan)
