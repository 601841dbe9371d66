"""The callback that writes the files of ``condgen predict``: the samples, a grid and a manifest."""

import csv
import math
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from condgen.data.requests import SampleBlock, SampleRequest
from condgen.errors import CollectiveError, UsageError, check_number
from condgen.files.atomic import write_errors_name
from condgen.files.images import grid, png, to_bytes, write_png
from condgen.files.reading import open_regular
from condgen.files.staging import StagingDirectory
from condgen.generators import ConditionalGenerator
from condgen.sampling.interpolation import write_interpolation

SHARD_SIZE = 65_536
GRID_ROWS, GRID_COLUMNS = 100, 32  # largest number of rows and columns of grid.png

HEADER = ("index", "label", "seed", "noise", "file")
WRITTEN = re.compile(  # names of files in a folder of predictions, including those of `condgen score`
    r"\d{6,}-label-\d+\.png|samples-\d{5}-of-\d{5}\.npz|\.samples|manifest\.csv"
    r"|(grid|word|walk|nearest)\.png|walk\.gif|scores\.json|\.[\w.]+\.[0-9a-f]{8}\.partial"
)


class PredictionFiles(Callback):
    """Writes the samples of ``condgen predict`` and two files that describe them.

    ``grid.png`` shows the samples, with one row for each label. ``manifest.csv`` lists the index, label, seed, noise
    index and file of each sample. If the labels were given as a word, each row of ``word.png`` spells the word.

    Each process writes the samples that it generates to a folder ``.DIRPATH.partial``, which is renamed when all
    samples are written. The files do not depend on the number of processes. The processes must share a file system.

    Args:
        dirpath: Folder for the files, relative to the working directory. By default, ``predictions`` in the run
            directory.
        format: File format of the samples. ``png`` writes one file for each sample. ``npz`` writes shards of 65,536
            samples with the arrays ``images`` (uint8, N×C×H×W), ``labels`` and ``indices`` (int64).
        overwrite: Whether to replace existing predictions. By default, an existing folder is an error.
        walk: Number of interpolation steps from one sample of a label to the next. If given, ``walk.gif`` shows the
            interpolation through all samples, and ``walk.png`` shows the steps from the first sample to the second,
            with one row for each label.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        format: Literal["png", "npz"] = "png",
        overwrite: bool = False,
        walk: int | None = None,
    ) -> None:
        if walk is not None:
            check_number("predictions.walk", walk, at_least=1, at_most=100)
        self.dirpath, self.format, self.overwrite, self.walk = dirpath, format, overwrite, walk
        self._staging: StagingDirectory | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        run = str(trainer.log_dir)
        self.folder = Path(self.dirpath).resolve() if self.dirpath else Path(run) / "predictions"
        if not self.folder.name:
            raise UsageError(f"predictions.dirpath is {self.dirpath}: give a folder with a name.")
        self.request: SampleRequest = trainer.datamodule.request  # type: ignore[attr-defined]
        self.is_word = trainer.datamodule.word is not None  # type: ignore[attr-defined]
        assert isinstance(pl_module, ConditionalGenerator)
        self.image_shape = pl_module.image_shape
        if self.walk and self.request.samples_per_label < 2:
            raise UsageError(
                f"predictions.walk is {self.walk}, but there is only one sample of each label to interpolate between: "
                "give data.samples_per_label 2 or more."
            )
        self._staging = StagingDirectory(self.folder, WRITTEN)
        self.partial = self._staging.path
        error = None
        if trainer.is_global_zero:
            try:
                self._staging.lock()
                self._check_overwrite()
                self._staging.create()
                if self.format == "npz":
                    self._raw.touch()
            except UsageError as raised:
                error = str(raised)
            except OSError as raised:
                reason = raised.strerror
                error = f"{self.folder} cannot be created ({reason}): give another folder as --predictions.dirpath."
        if error := trainer.strategy.broadcast(error):
            raise CollectiveError(error)

    def _check_overwrite(self) -> None:
        if not self.folder.exists():
            return
        if not self.overwrite:
            raise UsageError(
                f"{self.folder} exists: give another folder as --predictions.dirpath, or --predictions.overwrite true."
            )
        try:
            with open_regular(self.folder / "manifest.csv") as manifest:
                has_header = manifest.readline(1000).strip() == ",".join(HEADER).encode()
        except OSError:
            has_header = False
        if not has_header:
            raise UsageError(f"{self.folder} contains no predictions, so it is not overwritten: give another folder.")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SampleBlock,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        indices = batch.indices.cpu()
        requested = (indices >= self.request.first_index) & (indices < self.request.end)
        images, numbers = to_bytes(outputs)[requested], indices[requested].tolist()
        with write_errors_name(self.folder):
            if self.format == "png":
                for image, index in zip(images, numbers, strict=True):
                    (self.partial / self._file_of(index)).write_bytes(png(image))
            elif numbers:
                with open(self._raw, "r+b") as file:
                    file.seek((numbers[0] - self.request.first_index) * images[0].numel())
                    file.write(images.numpy().tobytes())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("samples written")
        if trainer.is_global_zero:
            assert isinstance(pl_module, ConditionalGenerator)
            assert self._staging is not None
            with write_errors_name(self.folder):
                self._write_pictures(trainer, pl_module)
                if self.format == "npz":
                    self._write_shards()
                with open(self.partial / "manifest.csv", "w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(HEADER)
                    for index in self._indices:
                        label, noise = self.request.label_of(index), self.request.noise_of(index)
                        writer.writerow((index, label, self.request.seed, noise, self._file_of(index)))
                self._staging.put_in_place()
        trainer.strategy.barrier("predictions complete")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._staging is not None:
            self._staging.discard()

    def _write_pictures(self, trainer: Trainer, generator: ConditionalGenerator) -> None:
        rows = self._grid_rows()
        write_png(grid(rows.flatten(0, 1), rows.shape[1]), self.partial / "grid.png")
        if self.is_word:
            write_png(grid(rows.transpose(0, 1).flatten(0, 1), len(rows)), self.partial / "word.png")
        if self.walk:
            with trainer.precision_plugin.forward_context():
                progress = trainer.progress_bar_callback is not None
                write_interpolation(generator, self.request, self.walk, self.partial, progress)

    def _grid_rows(self) -> Tensor:
        """Reads the samples of the grid, (labels, samples, C, H, W) uint8. If one was not requested, it is black."""
        request = self.request
        columns = min(request.samples_per_label, GRID_COLUMNS)
        first = request.first_index // request.samples_per_label
        labels = range(first, min(len(request.labels), first + GRID_ROWS))
        indices = [label * request.samples_per_label + column for label in labels for column in range(columns)]
        if not any(index in self._indices for index in indices):  # all requested samples are beyond the last column
            indices = list(self._indices[:columns])
            columns = len(indices)
        return torch.stack([self._read(index) for index in indices]).unflatten(0, (-1, columns))

    def _read(self, index: int) -> Tensor:
        """Reads a sample from its file, with shape (C, H, W) and dtype uint8. It is black if it was not requested."""
        if index not in self._indices:
            return torch.zeros(self.image_shape, dtype=torch.uint8)
        if self.format == "png":
            return pil_to_tensor(Image.open(self.partial / self._file_of(index)))
        return torch.from_numpy(np.array(self._raw_images(range(index, index + 1))[0]))

    def _write_shards(self) -> None:
        """Splits the raw file into npz shards. It starts at the end and truncates the raw file after each shard."""
        for indices in reversed(self._shards()):
            np.savez(
                self.partial / self._file_of(indices.start),
                images=self._raw_images(indices),
                labels=np.array([self.request.label_of(index) for index in indices]),
                indices=np.array(indices),
            )
            os.truncate(self._raw, (indices.start - self.request.first_index) * math.prod(self.image_shape))
        self._raw.unlink()

    # Indices and files of the samples

    @property
    def _indices(self) -> range:
        return range(self.request.first_index, self.request.end)

    @property
    def _raw(self) -> Path:
        """Path to the raw file with the pixels of all samples in order. The npz shards are created from it."""
        return self.partial / ".samples"

    def _raw_images(self, indices: range) -> np.ndarray:
        start = (indices.start - self.request.first_index) * math.prod(self.image_shape)
        return np.memmap(self._raw, np.uint8, "r", offset=start, shape=(len(indices), *self.image_shape))

    def _shards(self) -> list[range]:
        return [self._indices[start : start + SHARD_SIZE] for start in range(0, len(self._indices), SHARD_SIZE)]

    def _file_of(self, index: int) -> str:
        if self.format == "npz":
            shard, shards = (index - self.request.first_index) // SHARD_SIZE, -(-len(self._indices) // SHARD_SIZE)
            return f"samples-{shard:05d}-of-{shards:05d}.npz"
        return f"{index:06d}-label-{self.request.label_of(index)}.png"
