"""GAN-train: the accuracy of a classifier that is trained on samples and tested on real images."""

from typing import Any

import torch
from torch import Tensor

from condgen.metrics.classifier import Classifier, accuracy, batch_size_for, train
from condgen.metrics.set_metric import LabeledFeatures, SetMetric

LAYERS = [[16, 3, 2], [32, 3, 2], [64, 3, 2]]
STEPS, MAX_EPOCHS = 500, 20


def gan_train(samples: LabeledFeatures, real: LabeledFeatures, num_classes: int, seed: int = 0) -> float:
    """Trains a small classifier on samples and returns its accuracy on real images, in [0, 1].

    The accuracy is only high if the samples match their labels and vary in the same way as real images (Shmelkov et al.
    2018, "How good is my GAN?", arXiv:1807.09499; Ravuri and Vinyals 2019, arXiv:1905.10887, call it the classification
    accuracy score).

    Args:
        samples: Two or more samples (N, C, H, W) as uint8, and their labels (N,).
        real: Real images (M, C, H, W) as uint8, and their labels (M,).
        num_classes: Number of classes. Labels are 0 … ``num_classes`` - 1.
        seed: Random seed for the initial weights and the sample order.
    """
    epochs = min(MAX_EPOCHS, -(-STEPS // (len(samples.labels) // batch_size_for(len(samples.labels)))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(samples.features.shape[1:], num_classes, LAYERS, embedding_dim=64)
        train(classifier, *samples, epochs=epochs, seed=seed, augment=False)
    return accuracy(classifier, *real)


class GANTrainAccuracy(SetMetric):
    """Mean :func:`gan_train` accuracy of several classifiers with different seeds, a scalar.

    The features that ``update`` adds are images (N, C, H, W) as uint8.

    Args:
        num_classes: Number of classes. Labels are 0 … ``num_classes`` - 1.
        classifiers: Number of classifiers, at least 2. If all samples of a label look alike, the accuracies of the
            classifiers differ considerably.
        **kwargs: Keyword arguments of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, classifiers: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.classifiers = num_classes, classifiers
        self._accuracies = torch.zeros(0)

    def score(self, samples: LabeledFeatures, real: LabeledFeatures) -> Tensor:
        found = [gan_train(samples, real, self.num_classes, seed) for seed in range(self.classifiers)]
        self._accuracies = torch.tensor(found, dtype=torch.float64)
        return self._accuracies.mean()

    def uncertainty(self) -> Tensor:
        """Computes the standard error of the mean accuracy.

        It includes the variance over classifiers and over real images, but not over samples.
        """
        mean, images = self.compute(), len(self.collected("real").labels)
        return (self._accuracies.var() / self.classifiers + mean * (1 - mean) / images).sqrt()
