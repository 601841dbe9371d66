"""Comparing two sets of images: pure functions on their features, and the metrics that collect the sets.

A feature space is anything that turns an image into D numbers: pixels, a classifier's embedding, random convolutions.
Distances are computed in float64 and in stretches of rows: memory grows with the number of images, never its square.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from condgen.noise import permutation

NUM_SPLITS = 20  # by which a score's uncertainty is told


class LabelledFeatures(NamedTuple):
    """Features of images and their labels."""

    features: Tensor  # (N, D), or images (N, C, H, W)
    labels: Tensor  # (N,) int64

    def of(self, label: int) -> Tensor:
        return self.features[self.labels == label].flatten(1)

    def half(self, number: int) -> LabelledFeatures:
        """A random half of every label's, at least one; another ``number``, another half."""
        order = permutation(0, len(self.labels), number)
        of_label = [order[self.labels[order] == label] for label in self.labels.unique()]
        rows = torch.cat([rows[: max(1, len(rows) // 2)] for rows in of_label])
        return LabelledFeatures(self.features[rows], self.labels[rows])


def per_label(
    function: Callable[[Tensor, Tensor], Tensor], samples: LabelledFeatures, real: LabelledFeatures
) -> Tensor:
    """``function(samples, real)`` of every label that is among the real images: (labels, …)."""
    return torch.stack([function(samples.of(label), real.of(label)) for label in real.labels.unique().tolist()])


class SetMetric(Metric, ABC):
    """A score of a set of samples against a set of real images, both with labels.

    ``update`` takes them in any order and number; ``compute`` gives the score, a scalar, or one of each label; with
    several processes, of the sets of all. The samples need to have every label that the real images have.
    """

    full_state_update = False
    is_differentiable = False

    sample_features: list[Tensor]
    sample_labels: list[Tensor]
    real_features: list[Tensor]
    real_labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("sample_features", "sample_labels", "real_features", "real_labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor, real: bool) -> None:
        """Adds images: their features (N, …), their labels (N,), and whether they are real ones or samples."""
        (self.real_features if real else self.sample_features).append(features)
        (self.real_labels if real else self.sample_labels).append(labels)

    def _sets(self) -> tuple[LabelledFeatures, LabelledFeatures]:
        samples, labels, real, real_labels = (
            dim_zero_cat(state).cpu()
            for state in (self.sample_features, self.sample_labels, self.real_features, self.real_labels)
        )
        return LabelledFeatures(samples, labels), LabelledFeatures(real, real_labels)

    @abstractmethod
    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        """The score: a scalar, or (labels, …)."""

    def compute(self) -> Tensor:
        return self.score(*self._sets())

    def uncertainty(self) -> Tensor:
        """The standard error of the score (of its mean over labels), by what it is for random halves of both sets.

        A half is drawn without replacement: a mean over it varies around that over all images as much as that does
        around the truth, and no image is its own double, which would deceive what counts neighbours. Where the two sets
        hardly differ, halves overstate the error of a Fréchet distance and of precision up to twofold. It is that of
        this process's images; NaN where a label has fewer than four.
        """
        samples, real = self._sets()
        scores = [self.score(samples.half(2 * n), real.half(2 * n + 1)) for n in range(NUM_SPLITS)]
        error = torch.stack([score.mean(0) if score.ndim else score for score in scores]).std(0)
        fewest = min(int(images.labels.unique(return_counts=True)[1].min()) for images in (samples, real))
        return error if fewest >= 4 else torch.full_like(error, math.nan)
