"""Batches of images: shuffled, divided among processes, and resumable in the middle of an epoch."""

import os
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from condgen.data.augmentation import Augmentation
from condgen.errors import UsageError
from condgen.noise import AUGMENTATION, permutation, uniform


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images (N, C, H, W) uint8 and their labels (N,) int64, in memory. An index is a list or tensor of rows."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(rows)
        return self.images[rows], self.labels[rows]


class ImageSampler(DistributedSampler[list[int]]):
    """Yields the rows of this process in each batch of an epoch. Lightning leaves a DistributedSampler in place.

    The images, shuffled by (seed, epoch) or in their own order, are divided into global batches. Of each, this process
    takes the rows rank, rank + processes, … No image is repeated: the last batch may have one row less on some ranks.

    Args:
        size: number of images.
        batch_size: size of a global batch; a multiple of ``processes``.
        processes: number of processes that share a global batch.
        rank: of this process.
        shuffle_seed: None for the images' own order.
        drop_last: drop the last global batch if it is incomplete.
        groups: the labels (size,) and a number n, if images are to follow each other in groups of n with one label.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        processes: int,
        rank: int,
        shuffle_seed: int | None,
        drop_last: bool,
        groups: tuple[Tensor, int] | None = None,
    ) -> None:
        self.size, self.batch_size, self.processes, self.rank = size, batch_size, processes, rank
        self.shuffle_seed, self.groups = shuffle_seed, groups
        number = size if groups is None else int((groups[0].bincount() // groups[1]).sum()) * groups[1]
        self.batches = number // batch_size if drop_last else -(-number // batch_size)
        self.epoch = 0
        self.start = 0  # the batch with which the next iteration begins

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[list[int]]:
        seed = self.shuffle_seed
        order = torch.arange(self.size) if seed is None else permutation(seed, self.size, self.epoch)
        if self.groups is not None:
            order = group_by_label(order, *self.groups)
        for batch in range(self.start, self.batches):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size][self.rank :: self.processes]
            if len(rows):
                yield rows.tolist()

    def __len__(self) -> int:
        return self.batches


def group_by_label(order: Tensor, labels: Tensor, size: int) -> Tensor:
    """Returns the rows ``order`` in groups of ``size`` with one label; without those that are left over in a label.

    The groups are in the order of their first rows, so that they are shuffled if the rows are.
    """
    rows = order[labels[order].argsort(stable=True)]  # by label, and shuffled within
    groups = torch.cat(
        [part[: len(part) // size * size].view(-1, size) for part in rows.split(labels.bincount().tolist())]
    )
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return groups[place[groups].amin(1).argsort()].flatten()


def leave_process_group(worker: int) -> None:
    """Protects a worker from Ctrl-C, which a terminal sends to the whole process group: training still needs it."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class ImageLoader(DataLoader[tuple[Tensor, Tensor]]):
    """A DataLoader that can resume in the middle of an epoch.

    Lightning saves its ``state_dict`` in checkpoints, and restores it before the first batch.

    Args:
        dataset: the images.
        sampler: the rows of each batch.
        num_workers: processes that prepare batches.
        augmentation: changes the images of each batch.
    """

    sampler: ImageSampler

    def __init__(
        self, dataset: Images, sampler: ImageSampler, num_workers: int, augmentation: Augmentation | None = None
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the sampler yields whole batches
            sampler=sampler,
            num_workers=num_workers,
            worker_init_fn=leave_process_group,
            # Forked workers share the images' memory and end when this process is killed. Those of a fork server,
            # Python's default from 3.14, would stay for ever, because their parent is the server.
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
        )
        self.augmentation = augmentation
        self.yielded = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        # A generator: workers start with the first batch, when Lightning has set the sampler's epoch.
        self.yielded = self.sampler.start
        for images, labels in super().__iter__():
            if self.augmentation is not None:
                images = self.augmentation(images, self._uniform(len(images)))
            self.yielded += 1
            yield images, labels
        self.sampler.start = 0

    def _uniform(self, rows: int) -> Tensor:
        """Numbers (rows, 3) in [0, 1), determined by seed, epoch, batch and row in the global batch."""
        own = self.sampler
        own_rows = range(own.rank, own.rank + rows * own.processes, own.processes)
        return uniform(own.shuffle_seed or 0, own_rows, (3,), stream=AUGMENTATION, step=(self.yielded, own.epoch))

    def state_dict(self) -> dict[str, int]:
        own = self.sampler
        return {"epoch": own.epoch, "batches": self.yielded, "of": own.batches, "batch_size": own.batch_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["batches"] >= state["of"]:
            self.sampler.epoch, self.sampler.start = state["epoch"] + 1, 0
            return
        if (state["of"], state["batch_size"]) != (self.sampler.batches, self.sampler.batch_size):
            raise UsageError(
                f"The checkpoint is from the middle of an epoch of {state['of']:,} batches of {state['batch_size']}: "
                f"resume with the same data and --data.batch_size {state['batch_size']}, or from an epoch's end."
            )
        self.sampler.epoch, self.sampler.start = state["epoch"], state["batches"]
