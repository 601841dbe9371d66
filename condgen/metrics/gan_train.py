"""GAN-train: the accuracy on real images of a classifier that is trained on samples."""

from typing import Any

import torch
from torch import Tensor

from condgen.metrics.classifier import Classifier, accuracy, batch_size_for, train
from condgen.metrics.set_metric import LabelledFeatures, SetMetric

LAYERS = [[16, 3, 2], [32, 3, 2], [64, 3, 2]]
STEPS, MAX_EPOCHS = 500, 20


def gan_train(samples: LabelledFeatures, real: LabelledFeatures, num_classes: int, seed: int = 0) -> float:
    """Returns the accuracy, in [0, 1], on real images of a small classifier that is trained on two or more samples.

    Samples must be right, varied, and varied as real images are (Shmelkov et al. 2018, "How good is my GAN?",
    arXiv:1807.09499; the classification accuracy score of Ravuri and Vinyals 2019, arXiv:1905.10887).
    """
    epochs = min(MAX_EPOCHS, -(-STEPS // (len(samples.labels) // batch_size_for(len(samples.labels)))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(samples.features.shape[1:], num_classes, LAYERS, embedding_dim=64)
        train(classifier, *samples, epochs=epochs, seed=seed, augment=False)
    return accuracy(classifier, *real)


class GANTrainAccuracy(SetMetric):
    """Mean :func:`gan_train` accuracy of images (N, C, H, W) uint8 over a few classifiers: a scalar.

    Args:
        num_classes: labels are 0 … ``num_classes`` - 1.
        classifiers: two or more, with different seeds. Their accuracies differ much if all samples are alike.
        **kwargs: those of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, classifiers: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.classifiers = num_classes, classifiers
        self._accuracies = torch.zeros(0)

    def score(self, samples: LabelledFeatures, real: LabelledFeatures) -> Tensor:
        found = [gan_train(samples, real, self.num_classes, seed) for seed in range(self.classifiers)]
        self._accuracies = torch.tensor(found, dtype=torch.float64)
        return self._accuracies.mean()

    def uncertainty(self) -> Tensor:
        """Returns the standard error over classifiers and real images, without that over samples."""
        mean, images = self.compute(), len(self.collected("real").labels)
        return (self._accuracies.var() / self.classifiers + mean * (1 - mean) / images).sqrt()
