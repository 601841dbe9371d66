"""GAN-train: the accuracy on real images of a classifier that was trained on samples."""

from typing import Any

import torch
from torch import Tensor

from condgen.metrics.classifier import Classifier, accuracy, batch_size_for, train
from condgen.metrics.set_metric import LabeledFeatures, SetMetric

LAYERS = [[16, 3, 2], [32, 3, 2], [64, 3, 2]]
STEPS, MAX_EPOCHS = 500, 20


def gan_train(samples: LabeledFeatures, real: LabeledFeatures, num_classes: int, seed: int = 0) -> float:
    """Trains a small classifier on samples and returns its accuracy on real images, from 0 to 1.

    To reach a high accuracy, the samples need to match their labels and vary like real images do. The method is from
    Shmelkov et al. 2018, "How good is my GAN?", arXiv:1807.09499. Ravuri and Vinyals 2019, arXiv:1905.10887, call it
    the classification accuracy score.

    Args:
        samples: At least two images of shape (N, C, H, W) and dtype uint8, along with their labels of shape (N,).
        real: Real images of shape (M, C, H, W) and dtype uint8, along with their labels of shape (M,).
        num_classes: The number of classes. Labels range from 0 to ``num_classes - 1``.
        seed: The random seed for weight initialization and shuffling.
    """
    epochs = min(MAX_EPOCHS, -(-STEPS // (len(samples.labels) // batch_size_for(len(samples.labels)))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(samples.features.shape[1:], num_classes, LAYERS, embedding_dim=64)
        train(classifier, *samples, epochs=epochs, seed=seed, augment=False)
    return accuracy(classifier, *real)


class GANTrainAccuracy(SetMetric):
    """Mean accuracy from :func:`gan_train` over several classifiers with different seeds.

    The features passed to ``update`` must be images of shape (N, C, H, W) and dtype uint8.

    Args:
        num_classes: The number of classes. Labels range from 0 to ``num_classes - 1``.
        classifiers: The number of classifiers, at least 2. They vary a lot if all samples of a label look alike.
        **kwargs: Additional keyword arguments for ``torchmetrics.Metric``.
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

        This includes the variance across classifiers and real images, but not across samples.
        """
        mean, images = self.compute(), len(self.collected("real").labels)
        return (self._accuracies.var() / self.classifiers + mean * (1 - mean) / images).sqrt()
