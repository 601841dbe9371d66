"""Datasets and data loaders. Each dataset is a class, e.g. :class:`condgen.data.datasets.MNIST`."""

from condgen.data.color_datasets import CIFAR10, CIFAR100, SVHN
from condgen.data.datamodule import ImageDataModule
from condgen.data.datasets import EMNIST, KMNIST, MNIST, QMNIST, FashionMNIST
from condgen.data.idx_datamodule import SampleDataWarning
from condgen.data.image_folder import ImageFolder

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "EMNIST",
    "KMNIST",
    "MNIST",
    "QMNIST",
    "SVHN",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "SampleDataWarning",
]
