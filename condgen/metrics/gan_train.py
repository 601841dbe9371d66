"""GAN-train: how well a classifier that has seen only samples does on real images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from condgen.metrics.classifier import Classifier, accuracy, batch_size_for, train
from condgen.metrics.set_metric import LabelledFeatures, SetMetric

LAYERS = [[16, 3, 2], [32, 3, 2], [64, 3, 2]]
STEPS, MAX_EPOCHS = 500, 20


def gan_train(samples: LabelledFeatures, real: LabelledFeatures, num_classes: int, seed: int = 0) -> float:
    """The accuracy on real images of a small fixed classifier trained on samples, from 0 to 1.

    It asks for all at once: samples have to be right, varied, and varied in the way of real images, for a network to
    learn from them what a label's images are (Shmelkov et al. 2018, "How good is my GAN?"; Ravuri and Vinyals 2019 call
    it the classification accuracy score).

    Args:
        samples: to train on, two or more.
        real: to test on.
        num_classes: labels are 0 … ``num_classes`` - 1.
        seed: of the first weights and of the samples' order.
    """
    epochs = min(MAX_EPOCHS, -(-STEPS // (len(samples.labels) // batch_size_for(len(samples.labels)))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(samples.features.shape[1:], num_classes, LAYERS, embedding_dim=64)
        train(classifier, *samples, epochs=epochs, seed=seed, augment=False)
    return accuracy(classifier, *real)


class GANTrainAccuracy(SetMetric):
    """:func:`gan_train` of images (N, C, H, W) uint8, the mean over a few classifiers: a scalar.

    Args:
        num_classes: labels are 0 … ``num_classes`` - 1.
        classifiers: how many, two or more, each with another seed: what they learn from samples that are all alike
            differs much.
        **kwargs: those of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, classifiers: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.classifiers = num_classes, classifiers
        self._accuracies = torch.zeros(0)

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        seeds = range(self.classifiers)
        found = [gan_train(samples, real, self.num_classes, seed) for seed in seeds]
        self._accuracies = torch.tensor(found, dtype=torch.float64)
        return self._accuracies.mean()

    def uncertainty(self) -> Tensor:
        """The standard error of the mean of so many classifiers on so many real images; that of other samples is not
        in it."""
        part = self.compute()
        of_classifiers = self._accuracies.var() / self.classifiers
        return (of_classifiers + part * (1 - part) / len(self._sets()[1].labels)).sqrt()
