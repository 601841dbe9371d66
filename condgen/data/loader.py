"""A data loader that shuffles images, splits them across processes, and can resume in the middle of an epoch."""

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
    """An in-memory dataset of labeled images. Can be indexed with a list or tensor of rows.

    Args:
        images: Images of shape (N, C, H, W) and dtype uint8.
        labels: Labels of shape (N,) and dtype int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(rows)
        return self.images[rows], self.labels[rows]


class ImageSampler(DistributedSampler[list[int]]):
    """Yields the image indices for this process, one list per batch.

    The images are shuffled based on the seed and epoch, or kept in their original order, and then split into global
    batches. From each global batch, this process takes the rows rank, rank + processes, rank + 2 * processes, and so
    on. Images are never repeated, so in the last batch some ranks may have one row less than others.

    We inherit from DistributedSampler because Lightning replaces any other sampler when there are multiple processes.

    Args:
        size: The number of images.
        batch_size: The global batch size. Must be a multiple of ``processes``.
        processes: The number of processes that share a global batch.
        shuffle_seed: The seed to use for shuffling. If None, the images are not shuffled.
        drop_last: Whether to drop the last global batch if it's incomplete.
        groups: Labels of shape (size,) and a group size n. If given, every n consecutive images share the same label.
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
        self.start = 0  # index of the first batch in the next iteration

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
    """Reorders shuffled rows into groups of rows with the same label.

    Groups are sorted by the position of their first row in ``order``, so they are shuffled as well if ``order`` is.

    Args:
        order: The order of the rows, of shape (N,).
        labels: The label of each row, of shape (N,).
        size: The number of rows per group.

    Returns:
        The reordered rows. Leftover rows that don't fill a group are dropped.
    """
    rows = order[labels[order].argsort(stable=True)]  # sorted by label, but still shuffled within each label
    groups = torch.cat(
        [part[: len(part) // size * size].view(-1, size) for part in rows.split(labels.bincount().tolist())]
    )
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return groups[place[groups].amin(1).argsort()].flatten()


def leave_process_group(worker: int) -> None:
    """Moves a worker to its own process group.

    Pressing Ctrl-C in a terminal interrupts the whole process group. The main process still needs its workers at that
    point, since it finishes the current batch before it stops.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class ImageLoader(DataLoader[tuple[Tensor, Tensor]]):
    """A DataLoader that can resume in the middle of an epoch.

    Lightning saves its ``state_dict`` in checkpoints and restores it before the first batch.
    """

    sampler: ImageSampler

    def __init__(
        self, dataset: Images, sampler: ImageSampler, num_workers: int, augmentation: Augmentation | None = None
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the sampler already yields whole batches
            sampler=sampler,
            num_workers=num_workers,
            worker_init_fn=leave_process_group,
            # Forked workers share the memory of the images and exit if this process is killed. With a fork server, the
            # default as of Python 3.14, they would keep running because the server is their parent.
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
        )
        self.augmentation = augmentation
        self.yielded = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        # This is a generator, so workers only start at the first batch, after Lightning has set the sampler's epoch.
        self.yielded = self.sampler.start
        for images, labels in super().__iter__():
            if self.augmentation is not None:
                images = self.augmentation(images, self._uniform(len(images)))
            self.yielded += 1
            yield images, labels
        self.sampler.start = 0

    def _uniform(self, rows: int) -> Tensor:
        """Returns (rows, 3) random numbers in [0, 1) that only depend on the seed, epoch, batch, and global row."""
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
                f"resume with the same data and --data.batch_size {state['batch_size']}, or from the end of an epoch."
            )
        self.sampler.epoch, self.sampler.start = state["epoch"], state["batches"]
