"""Batches of images, dealt to processes so that their number changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from condgen.errors import UsageError
from condgen.noise import permutation


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images (N, C, H, W) uint8 and their labels (N,) int64, held in memory and indexed a batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self[torch.tensor(indices)]

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[rows], self.labels[rows]


class ImageSampler(DistributedSampler[int]):
    """The order in which this process sees the images of an epoch.

    The images, shuffled by (seed, epoch) or in their own order, are cut into global batches of ``batch_size``; of each
    this process takes the rows rank, rank + processes, … No image is repeated: where the last batch does not divide,
    some processes get a row less.

    Args:
        size: number of images.
        batch_size: size of a global batch; a multiple of ``processes``.
        processes: how many processes share a global batch.
        rank: which of them this is.
        shuffle_seed: None for the images' own order.
        drop_last: leave out the last global batch where it is not full.
    """

    def __init__(
        self, size: int, batch_size: int, processes: int, rank: int, shuffle_seed: int | None, drop_last: bool
    ) -> None:
        self.size, self.batch_size, self.processes, self.rank = size, batch_size, processes, rank
        self.shuffle_seed = shuffle_seed
        self.batches = size // batch_size if drop_last else -(-size // batch_size)
        self.epoch = 0
        self.start = 0  # the batch with which the next iteration begins
        self._order, self._order_of = torch.empty(0, dtype=torch.long), -1  # of the images in an epoch

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def rows(self, batch: int) -> Tensor:
        """The images that this process sees in a batch of this epoch, by their numbers: (N,) int64."""
        if self._order_of != self.epoch:
            self._order_of = self.epoch
            self._order = torch.arange(self.size)
            if self.shuffle_seed is not None:
                self._order = permutation(self.shuffle_seed, self.size, self.epoch)
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size][self.rank :: self.processes]

    def __iter__(self) -> Iterator[int]:
        for batch in range(self.start, self.batches):
            yield from self.rows(batch).tolist()

    def __len__(self) -> int:
        size = min(self.size, self.batches * self.batch_size)
        return len(range(self.rank, size, self.processes))


def identity_collate(batch: Any) -> Any:
    """A ``collate_fn`` for data sets that give whole batches."""
    return batch


def leave_process_group(worker: int) -> None:
    """Ctrl-C in a terminal, which all its processes get, is for the training, which still needs its workers."""
    os.setpgrp()


class ImageLoader(DataLoader[tuple[Tensor, Tensor]]):
    """Batches of images and labels that can be gone on with from the middle of an epoch.

    Lightning saves ``state_dict`` in checkpoints, and gives it back before it iterates.
    """

    def __init__(self, dataset: Images, sampler: ImageSampler, num_workers: int) -> None:
        super().__init__(
            dataset,
            batch_size=sampler.batch_size // sampler.processes,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=identity_collate,
            worker_init_fn=leave_process_group,
            # Forked workers share the images' memory and end when this process is killed. Those of a fork server,
            # Python's default from 3.14, would stay for ever, because their parent is the server.
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
        )
        self.positions = sampler
        self.yielded = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        # A generator: the workers start with the first batch, when Lightning has told the sampler its epoch.
        self.yielded = self.positions.start
        for batch in super().__iter__():
            self.yielded += 1
            yield batch
        self.positions.start = 0

    def __len__(self) -> int:
        return self.positions.batches

    def state_dict(self) -> dict[str, int]:
        return {
            "epoch": self.positions.epoch,
            "batches": self.yielded,
            "of": len(self),
            "batch_size": self.positions.batch_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["batches"] >= state["of"]:
            self.positions.epoch, self.positions.start = state["epoch"] + 1, 0
            return
        if (state["of"], state["batch_size"]) != (len(self), self.positions.batch_size):
            raise UsageError(
                f"The checkpoint is from the middle of an epoch of {state['of']:,} batches of {state['batch_size']}: "
                f"go on with the same data and --data.batch_size {state['batch_size']}, or from an epoch's end."
            )
        self.positions.epoch, self.positions.start = state["epoch"], state["batches"]
