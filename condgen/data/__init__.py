"""Data sets, and the loaders that make batches of them. A data set is a class: see :mod:`condgen.data.datasets`."""

from condgen.data.datamodule import ImageDataModule, SampleDataWarning
from condgen.data.datasets import EMNIST, KMNIST, MNIST, QMNIST, FashionMNIST

__all__ = ["EMNIST", "KMNIST", "MNIST", "QMNIST", "FashionMNIST", "ImageDataModule", "SampleDataWarning"]
