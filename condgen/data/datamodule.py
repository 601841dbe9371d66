"""Base class for all datasets. Provides batches of labeled images, as well as the sample requests for ``predict``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from condgen.data.augmentation import Augmentation
from condgen.data.loader import ImageLoader, Images, ImageSampler
from condgen.data.mixes import Mix, is_mixed, parse_mixes, unknown_label
from condgen.data.requests import SampleBlock, SampleRequest, request_loader
from condgen.errors import UsageError, check_number

MAX_BLOCK = 4096
CHUNK = 64  # number of images to convert to float64 at once


class ImageDataModule(LightningDataModule):
    """Base class for datasets of labeled images, all of the same size and with pixels in [0, 1].

    The training images are used for training, and the test images for both validation and testing. For ``predict``, the
    data module provides the labels and noise indices of the requested samples instead. To add your own dataset, write a
    subclass that sets ``classes`` and ``image_shape`` and implements :meth:`read`.

    Args:
        root: The folder that contains the dataset. If the dataset is missing, it gets downloaded to this folder.
        source: Which images to use. ``full`` is the whole dataset, which is downloaded if it can't be found under
            ``root``. ``sample`` is a small subset that ships with condgen. ``auto`` falls back to the sample if the
            download fails.
        batch_size: The number of images per training step across all processes. For predict, the number of samples to
            generate at once, up to 4,096.
        num_workers: The number of worker processes that prepare the batches. 0 is the fastest for images this small.
        images_per_class: The number of consecutive training images that share a label. This is used by families that
            compare images within a class, e.g. a batch of 1,280 images with 32 images per class contains 40 classes.
        horizontal_flip: Whether to flip each training image with a probability of 1/2. Don't use this for digits or
            letters.
        max_shift: The maximum random shift of the training images in either direction, in pixels.
        labels: The labels to generate with predict, either as a list like ``[3,1,4]`` or as a word made up of class
            names like ``2026``, or as mixes like ``4+9`` and ``4:0.3,9:0.7``. For the diffusion, ``7-1`` means a 7 and
            not a 1, and ``none`` means no label. Defaults to all labels.
        samples_per_label: The number of samples to generate per label with predict.
        sample_seed: The noise seed for predict.
        first_index: The index of the first sample to generate with predict.
        shared_noise: Whether predict uses the same noise for the k-th sample of every label. Each column of
            ``grid.png`` then shows the style determined by that noise.
    """

    classes: Sequence[str]
    """The class names, in the order of their labels."""
    image_shape: tuple[int, int, int] = (1, 28, 28)
    origin: ClassVar[str] = ""
    """The authors and license of the images, for the model card."""
    sample_available: ClassVar[bool] = False
    image_settings: ClassVar[Sequence[str]] = ("root",)
    """Settings that determine which images are used, in addition to ``source``."""

    def __init__(
        self,
        root: str = "data",
        source: Literal["auto", "full", "sample"] = "auto",
        batch_size: int = 64,
        num_workers: int = 0,
        images_per_class: int = 1,
        horizontal_flip: bool = False,
        max_shift: int = 0,
        labels: list[int] | str | None = None,
        samples_per_label: int = 10,
        sample_seed: int = 0,
        first_index: int = 0,
        shared_noise: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.root, self.source, self.batch_size, self.num_workers = Path(root), source, batch_size, num_workers
        requested = self.parse_mixed_labels(labels) if isinstance(labels, str) else labels
        self.labels: Sequence[int | Mix] = range(self.num_classes) if requested is None else requested
        self.is_word = isinstance(labels, str) and not any(isinstance(label, Mix) for label in self.labels)
        self.samples_per_label, self.sample_seed, self.first_index = samples_per_label, sample_seed, first_index
        self.shared_noise = shared_noise
        self.images_per_class = images_per_class
        self.augmentation = Augmentation(horizontal_flip, max_shift)
        self._check_settings()
        self._images: tuple[Images, Images] | None = None
        self.may_download = True

    def _check_settings(self) -> None:
        check_number("data.batch_size", self.batch_size, at_least=1, at_most=2**20)
        check_number("data.num_workers", self.num_workers, at_least=0, at_most=512)
        check_number("data.images_per_class", self.images_per_class, at_least=1, at_most=self.batch_size)
        check_number("data.max_shift", self.augmentation.max_shift, at_least=0, at_most=min(self.image_shape[1:]) // 2)
        check_number("data.sample_seed", self.sample_seed, at_least=0, at_most=2**64 - 1)
        check_number("data.samples_per_label", self.samples_per_label, at_least=1, at_most=10**9)
        if not self.labels:
            raise UsageError("data.labels is []: give one or more labels.")
        for label in self.labels:
            if not isinstance(label, Mix):
                check_number("data.labels", label, at_least=0, at_most=self.num_classes - 1)
        end = len(self.labels) * self.samples_per_label
        check_number("data.first_index", self.first_index, at_least=0, at_most=end - 1)
        if self.source == "sample" and not self.sample_available:
            raise UsageError(f"data.source is sample, but only MNIST has one. Use full or auto for {self.dataset}.")

    @property
    def dataset(self) -> str:
        """The name of the dataset on the command line and in torchvision."""
        return type(self).__name__

    @property
    def full_name(self) -> str:
        """The dataset name, including the split if there are several, e.g. ``EMNIST-letters``."""
        return self.dataset

    @property
    def own_folder(self) -> Path:
        """The folder for files that condgen creates for this dataset, e.g. its evaluator."""
        return self.root / self.dataset

    @property
    def num_classes(self) -> int:
        """The number of classes. Labels range from 0 to ``num_classes - 1``."""
        return len(self.classes)

    def parse_labels(self, text: str) -> list[int]:
        """Converts class names to labels.

        Args:
            text: Comma-separated class names, e.g. ``Coat, Bag``. The commas are optional if all of the class names are
                single characters, e.g. ``2026``.

        Raises:
            UsageError: If the dataset doesn't have one of the classes.
        """
        is_word = all(len(name) == 1 for name in self.classes) and "," not in text
        parts = list("".join(text.split())) if is_word else [part.strip() for part in text.split(",")]
        labels = {name: label for label, name in enumerate(self.classes)}
        if unknown := [part for part in parts if part not in labels]:
            raise unknown_label(unknown[0], self.classes, text, self.full_name)
        return [labels[part] for part in parts]

    def parse_mixed_labels(self, text: str) -> Sequence[int | Mix]:
        """Like :meth:`parse_labels`, but also supports the mixes of :func:`condgen.data.mixes.parse_mixes`."""
        try:
            return self.parse_labels(text)
        except UsageError:
            if not is_mixed(text):
                raise
        return parse_mixes(text, self.classes, self.full_name)

    # Reading

    def read(self) -> tuple[Images, Images]:
        """Loads the training and test images.

        Also sets ``hparams["source"]`` to ``full`` or ``sample``, so that checkpoints record which images were used.

        Raises:
            UsageError: If the files are missing, damaged, or don't match the dataset.
        """
        raise NotImplementedError

    def download(self) -> None:
        """Downloads the dataset if its files are missing. Does nothing by default."""

    def prepare_data(self) -> None:
        is_predicting = self.trainer is not None and self.trainer.predicting
        if not is_predicting and self._images is None:
            self.download()

    def setup(self, stage: str) -> None:
        if stage != "predict" and self._images is None:
            self._images = self.read()
        if self.trainer is not None and self._images is not None:
            mine = (self.hparams["source"], len(self.train_images), len(self.val_images))
            first = self.trainer.strategy.broadcast(mine)
            if mine != first:
                raise UsageError(
                    f"This process found {mine[1]:,} training images ({mine[0]}), but rank 0 found {first[1]:,} "
                    f"({first[0]}): give all processes the same data under --data.root, or use --data.source sample."
                )

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
        """The per-class mean of the training images in [0, 1], in float32 and of shape (num_classes, C, H, W)."""
        images, labels = self.train_images.images, self.train_images.labels
        sums = torch.zeros(self.num_classes, *self.image_shape, dtype=torch.float64)
        for chunk, chunk_labels in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
            sums.index_add_(0, chunk_labels, chunk.double())
        counts = labels.bincount(minlength=self.num_classes).clamp(min=1)
        return sums.div_(counts[:, None, None, None]).div_(255).float()

    # Batches

    def check_divisible(self, processes: int) -> None:
        """Raises a UsageError if the batch size isn't divisible by the number of processes."""
        if self.batch_size % processes:
            raise UsageError(
                f"data.batch_size is {self.batch_size}, which is not divisible by the number of processes "
                f"({processes}): give a multiple of {processes}."
            )

    @property
    def _processes_and_rank(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def _image_loader(self, images: Images, shuffle_seed: int | None = None) -> ImageLoader:
        processes, rank = self._processes_and_rank
        self.check_divisible(processes)
        drop_last = shuffle_seed is not None
        groups = (images.labels, self.images_per_class) if drop_last and self.images_per_class > 1 else None
        sampler = ImageSampler(len(images), self.batch_size, processes, rank, shuffle_seed, drop_last, groups)
        augmentation = self.augmentation if drop_last and any(self.augmentation) else None
        return ImageLoader(images, sampler, self.num_workers, augmentation)

    def train_dataloader(self) -> ImageLoader:
        if self.batch_size > len(self.train_images):
            raise UsageError(
                f"data.batch_size is {self.batch_size}, but there are only {len(self.train_images):,} training images: "
                "use a smaller batch size."
            )
        module = self.trainer.lightning_module if self.trainer is not None else None
        # A resumed run has to shuffle with its original seed, which the module restores from the checkpoint.
        seed = getattr(module, "run_seed", int(os.environ.get("PL_GLOBAL_SEED", 0)))
        return self._image_loader(self.train_images, shuffle_seed=seed)

    def val_dataloader(self) -> ImageLoader:
        return self._image_loader(self.val_images)

    test_dataloader = val_dataloader

    @property
    def block_size(self) -> int:
        """The number of samples to generate at once. Same as the batch size, but capped at 4,096 to save memory."""
        return min(self.batch_size, MAX_BLOCK)

    @property
    def request(self) -> SampleRequest:
        """The samples to generate with ``condgen predict``."""
        return SampleRequest(
            self.labels, self.samples_per_label, self.first_index, self.sample_seed, self.block_size, self.shared_noise
        )

    def predict_dataloader(self) -> DataLoader[SampleBlock]:
        return request_loader(self.request, *self._processes_and_rank)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Converts images to float32 in [0, 1]. We do this on the device since uint8 is faster to transfer."""
        if isinstance(batch, SampleBlock):
            return batch
        images, labels = batch
        return images.float().div(255), labels
