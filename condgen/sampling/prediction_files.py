"""What ``condgen predict`` writes: the samples, a grid, and a manifest."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
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
from condgen.errors import UsageError, check_number
from condgen.files.atomic import naming
from condgen.files.images import grid, png, to_bytes, write_png
from condgen.files.reading import open_regular
from condgen.files.staging import StagingDirectory, check_known, remove_known
from condgen.generators import ConditionalGenerator
from condgen.sampling.interpolation import write_interpolation

SHARD_SIZE = 65_536
GRID_ROWS, GRID_COLUMNS = 100, 32  # what a picture can show


HEADER = ("index", "label", "seed", "noise", "file")
WRITTEN = re.compile(  # names of the files in a folder of predictions, also of those that `condgen score` adds to it
    r"\d{6,}-label-\d+\.png|samples-\d{5}-of-\d{5}\.npz|\.images-\d{5}|manifest\.csv"
    r"|(grid|word|walk|nearest)\.png|walk\.gif|scores\.json|\.[\w.]+\.[0-9a-f]{8}\.partial"
)


class PredictionFiles(Callback):
    """Writes the requested samples, ``grid.png`` (a row a label) and ``manifest.csv``: index, label, seed, noise, file.

    Where the labels were given as a word, ``word.png`` has it in each of its rows.

    Everything is written into a folder beside, ``.DIRPATH.partial``, which is renamed when whole. Each process writes
    the samples that it draws; the files are the same for any number of processes, which share the file system.

    Args:
        dirpath: the folder, relative to the working directory; ``predictions`` in the run directory if not given.
        format: ``png`` writes a file a sample. ``npz`` writes shards of 65,536 samples with the arrays
            ``images`` (uint8, N×C×H×W), ``labels`` and ``indices`` (int64).
        overwrite: put the new folder in the place of an existing one, instead of refusing.
        walk: also write ``walk.gif``, in which each label's samples turn into each other in so many steps, and
            ``walk.png``, a row a label: the way from its first sample to its second.
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
        self._claim: StagingDirectory | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        run = str(trainer.log_dir)
        self.folder = Path(self.dirpath).resolve() if self.dirpath else Path(run) / "predictions"
        if not self.folder.name:
            raise UsageError(f"predictions.dirpath is {self.dirpath}: give a folder with a name.")
        self.partial = self.folder.with_name(f".{self.folder.name}.partial")
        self.replaced = self.folder.with_name(f".{self.folder.name}.replaced")
        self.request: SampleRequest = trainer.datamodule.request  # type: ignore[attr-defined]
        self.is_word = trainer.datamodule.word is not None  # type: ignore[attr-defined]
        if self.walk and self.request.samples_per_label < 2:
            raise UsageError(
                f"predictions.walk is {self.walk}, but there is one sample of each label, from which no way leads to "
                "another: give data.samples_per_label 2 or more."
            )
        if trainer.is_global_zero and self.replaced.exists() and not self.folder.exists():
            check_known(self.replaced, WRITTEN)  # a kill came just before the new folder took the place of this one
            self.replaced.rename(self.folder)
        trainer.strategy.barrier("interrupted overwriting undone")
        if self.folder.exists() and not self.overwrite:
            raise UsageError(
                f"{self.folder} exists: give another folder as --predictions.dirpath, or --predictions.overwrite true."
            )
        if self.folder.exists():
            self._check_overwritable()
        trainer.strategy.barrier("existing predictions looked for")

    def _check_overwritable(self) -> None:
        """Raises UsageError unless the existing folder and what a killed overwriting left hold predictions alone."""
        try:
            with open_regular(self.folder / "manifest.csv") as manifest:
                is_ours = manifest.readline(1000).strip() == ",".join(HEADER).encode()
        except OSError:
            is_ours = False
        if not is_ours:
            raise UsageError(f"{self.folder} holds no predictions, and is not overwritten: give another folder.")
        check_known(self.folder, WRITTEN)
        if self.replaced.exists():
            check_known(self.replaced, WRITTEN)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._claim = StagingDirectory(self.partial, WRITTEN)
            try:
                self._claim.take()
            except OSError as error:
                raise UsageError(
                    f"{self.partial} cannot be made ({error.strerror}): give another folder as --predictions.dirpath."
                ) from error
            if self.format == "npz":
                for shard in range(self._shards):
                    self._raw_path(shard).touch()
        trainer.strategy.barrier("partial folder made")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SampleBlock,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        images, indices = to_bytes(outputs), batch.indices.cpu()
        wanted = (indices >= self.request.first_index) & (indices < self.request.end)
        images, numbers = images[wanted], indices[wanted].tolist()
        with naming(self.folder):
            self._write(images, numbers)

    def _write(self, images: Tensor, numbers: list[int]) -> None:
        """Writes images (N, C, H, W) uint8, the samples with these numbers, or their part of raw shards."""
        if self.format == "png":
            for image, index in zip(images, numbers, strict=True):
                (self.partial / self._file_of(index)).write_bytes(png(image))
            return
        for shard in sorted({self._shard_of(index) for index in numbers}):
            rows = [row for row, index in enumerate(numbers) if self._shard_of(index) == shard]
            start = numbers[rows[0]] - self._shard_indices(shard).start
            with open(self._raw_path(shard), "r+b") as raw:
                raw.seek(start * images[0].numel())
                raw.write(images[rows].numpy().tobytes())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("samples written")
        if trainer.is_global_zero:
            assert isinstance(pl_module, ConditionalGenerator)
            with naming(self.folder):
                self._finish(trainer, pl_module)
                self._put_in_place()
        trainer.strategy.barrier("predictions whole")

    def _finish(self, trainer: Trainer, generator: ConditionalGenerator) -> None:
        """Writes the shards, the pictures and the manifest."""
        if self.format == "npz":
            for shard in range(self._shards):
                self._finish_shard(shard, generator.image_shape)
        rows = self._rows()
        write_png(grid(rows.flatten(0, 1), rows.shape[1]), self.partial / "grid.png")
        if self.is_word:
            write_png(grid(rows.transpose(0, 1).flatten(0, 1), len(rows)), self.partial / "word.png")
        if self.walk:
            with trainer.precision_plugin.forward_context():
                progress = trainer.progress_bar_callback is not None
                write_interpolation(
                    generator, self.request, self.walk, (GRID_ROWS, GRID_COLUMNS), self.partial, progress
                )
        with open(self.partial / "manifest.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows(self._manifest())

    def _put_in_place(self) -> None:
        """Renames the finished folder over a former one. A kill in between is undone by the next :meth:`setup`."""
        if self.folder.exists():
            if self.replaced.exists():
                remove_known(self.replaced, WRITTEN)
            self.folder.rename(self.replaced)
        self.partial.rename(self.folder)
        assert self._claim is not None
        self._claim.release()
        if self.replaced.exists():
            remove_known(self.replaced, WRITTEN)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._claim is not None:
            self._claim.remove()

    # What is where.

    @property
    def _indices(self) -> range:
        return range(self.request.first_index, self.request.end)

    @property
    def _shards(self) -> int:
        return -(-len(self._indices) // SHARD_SIZE)

    def _shard_of(self, index: int) -> int:
        return (index - self.request.first_index) // SHARD_SIZE

    def _shard_indices(self, shard: int) -> range:
        return self._indices[shard * SHARD_SIZE : (shard + 1) * SHARD_SIZE]

    def _raw_path(self, shard: int) -> Path:
        return self.partial / f".images-{shard:05d}"

    def _file_of(self, index: int) -> str:
        if self.format == "npz":
            return f"samples-{self._shard_of(index):05d}-of-{self._shards:05d}.npz"
        return f"{index:06d}-label-{self.request.label_of(index)}.png"

    def _manifest(self) -> Iterator[tuple[int, int, int, int, str]]:
        for index in self._indices:
            noise = self.request.noise_of(index)
            yield index, self.request.label_of(index), self.request.seed, noise, self._file_of(index)

    def _finish_shard(self, shard: int, image_shape: tuple[int, ...]) -> None:
        indices = self._shard_indices(shard)
        np.savez(
            self.partial / self._file_of(indices.start),
            images=np.memmap(self._raw_path(shard), np.uint8, "r", shape=(len(indices), *image_shape)),
            labels=np.array([self.request.label_of(index) for index in indices]),
            indices=np.array(indices),
        )
        self._raw_path(shard).unlink()

    def _rows(self) -> Tensor:
        """The samples that a picture has room for, (labels, samples, C, H, W) uint8; black where none was drawn."""
        per_label = self.request.samples_per_label
        columns = min(per_label, GRID_COLUMNS)
        first_row = self.request.first_index // per_label
        rows = range(first_row, min(len(self.request.labels), first_row + GRID_ROWS))
        images = [self._read(row * per_label + column) for row in rows for column in range(columns)]
        blank = next((torch.zeros_like(image) for image in images if image is not None), None)
        if blank is None:  # all that was drawn lies beyond the columns that fit
            drawn = [self._read(index) for index in self._indices[:columns]]
            return torch.stack([image for image in drawn if image is not None])[None]
        return torch.stack([blank if image is None else image for image in images]).unflatten(0, (-1, columns))

    def _read(self, index: int) -> Tensor | None:
        """Sample number ``index`` as it was written, (C, H, W) uint8; None where it was not asked for."""
        if index not in self._indices:
            return None
        path = self.partial / self._file_of(index)
        if self.format == "png":
            return pil_to_tensor(Image.open(path))
        shard = self._shard_of(index)
        if getattr(self, "_open_shard", (None,))[0] != shard:
            with np.load(path) as arrays:
                self._open_shard = (shard, arrays["images"])
        image = self._open_shard[1][index - self._shard_indices(shard).start]
        return torch.from_numpy(image.copy())  # a view would keep its whole shard in memory
