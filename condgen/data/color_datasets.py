"""Color datasets that are loaded with torchvision: CIFAR-10, CIFAR-100, and SVHN. All images are 32 x 32."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from lightning.pytorch.utilities import rank_zero_info

from condgen.data.download import DownloadedDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError


class ColorDataModule(DownloadedDataModule):
    """Base class for the color datasets that torchvision downloads and reads.

    The files keep the names that torchvision gives them and can be in either ``root/NAME`` or ``root``.
    """

    image_shape = (3, 32, 32)

    def open(self, root: Path, train: bool, download: bool = False) -> Any:
        """Opens the dataset with torchvision and downloads its files first if requested.

        Note that torchvision verifies the MD5 checksums before it reads anything. The CIFAR files are pickles, so
        without this check a tampered file could run arbitrary code.

        Raises:
            RuntimeError: If a file is missing or has the wrong checksum.
        """
        return getattr(torchvision.datasets, self.dataset)(str(root), train=train, download=download)

    def find(self) -> Path | None:
        folders = (self.root / self.dataset, self.root)
        return next((f for f in folders if all((f / self.files_folder / name).is_file() for name in self.files)), None)

    def torchvision_download(self, root: Path) -> None:
        for train in (True, False):
            self.open(root / self.dataset, train, download=True)

    def read(self) -> tuple[Images, Images]:
        folder = self.find()
        if folder is None:
            raise UsageError(f"{self.dataset} is not under {self.root}: give its folder as --data.root.")
        rank_zero_info(f"Data: {self.dataset} from {folder}")
        self.hparams["source"] = "full"
        try:
            return self._images_of(self.open(folder, train=True)), self._images_of(self.open(folder, train=False))
        except RuntimeError as error:
            names = ", ".join(self.files)
            raise UsageError(
                f"{folder} contains files that are damaged or not from {self.dataset}: replace {names}."
            ) from error

    def _images_of(self, data: Any) -> Images:
        images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
        return Images(torch.from_numpy(images), torch.tensor(data.targets))


class CIFAR10(ColorDataModule):
    """CIFAR-10: 50,000 training and 10,000 test photos in 10 classes (Krizhevsky 2009)."""

    origin = "A. Krizhevsky, V. Nair and G. Hinton"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    files_folder = torchvision.datasets.CIFAR10.base_folder
    files = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


class CIFAR100(ColorDataModule):
    """CIFAR-100: 50,000 training and 10,000 test photos in 100 classes (Krizhevsky 2009)."""

    origin = "A. Krizhevsky, V. Nair and G. Hinton"
    classes = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
        "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee",
        "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant",
        "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower",
        "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
        "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate",
        "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark",
        "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
        "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout", "tulip",
        "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip
    files_folder = torchvision.datasets.CIFAR100.base_folder
    files = ("train", "test", "meta")


class SVHN(ColorDataModule):
    """SVHN: 73,257 training and 26,032 test images of house number digits (Netzer et al. 2011)."""

    origin = "Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu and A. Ng; for non-commercial use"
    classes = tuple("0123456789")
    files_folder = ""
    files = ("train_32x32.mat", "test_32x32.mat")

    def open(self, root: Path, train: bool, download: bool = False) -> Any:
        return torchvision.datasets.SVHN(str(root), split="train" if train else "test", download=download)

    def _images_of(self, data: Any) -> Images:
        return Images(torch.from_numpy(np.ascontiguousarray(data.data)), torch.from_numpy(data.labels))
