"""Batches of images and of label requests, dealt to processes so that their number changes nothing.

Both loaders are ``DataLoader``s over samplers that Lightning recognises as distributed, and so leaves alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

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


def take_as_it_is(batch: Any) -> Any:
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
            collate_fn=take_as_it_is,
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


class SampleBlock(NamedTuple):
    """A block of requested samples, always of the same size: its ends may reach beyond the request."""

    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, the samples' numbers in the request
    noise: Tensor  # (B,) int64, the numbers of their noise
    seed: int


class SampleRequest(Dataset[SampleBlock]):
    """Samples to draw: each of ``labels`` ``samples_per_label`` times, one label after the other.

    Sample i has the noise number i of the seed; with ``shared_noise`` the k-th sample of every label has number k.

    Sample i is number i of the request whatever the blocks are: blocks begin at multiples of ``block_size``, so that a
    request that goes on from ``first_index`` draws its samples in the blocks in which the whole request draws them.
    """

    def __init__(
        self,
        labels: list[int],
        samples_per_label: int,
        first_index: int,
        seed: int,
        block_size: int,
        shared_noise: bool = False,
    ) -> None:
        self.labels, self.samples_per_label = labels, samples_per_label
        self.first_index, self.seed, self.block_size = first_index, seed, block_size
        self.shared_noise = shared_noise
        self.end = len(labels) * samples_per_label
        self.first_block = first_index // block_size

    def label_of(self, index: int) -> int:
        """The label of sample number ``index``, 0 <= index < end."""
        return self.labels[index // self.samples_per_label]

    def noise_of(self, index: int) -> int:
        """The number of the noise of sample number ``index``."""
        return index % self.samples_per_label if self.shared_noise else index

    def __len__(self) -> int:
        return -(-self.end // self.block_size) - self.first_block

    def __getitem__(self, block: int) -> SampleBlock:
        start = (self.first_block + block) * self.block_size
        indices = torch.arange(start, start + self.block_size)
        labels = torch.tensor([self.label_of(i) for i in indices.clamp(max=self.end - 1).tolist()])
        noise = torch.tensor([self.noise_of(i) for i in indices.tolist()])
        return SampleBlock(labels, indices, noise, self.seed)


class BlockSampler(DistributedSampler[int]):
    """Deals whole blocks to processes in turn; none is repeated.

    A process for which there is none gets one beyond the request's end: Lightning wants every process to have a batch.
    """

    def __init__(self, blocks: int, processes: int, rank: int) -> None:
        self.dealt = range(rank, max(blocks, rank + 1), processes)

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: a request has no epochs."""

    def __iter__(self) -> Iterator[int]:
        return iter(self.dealt)

    def __len__(self) -> int:
        return len(self.dealt)


def request_loader(request: SampleRequest, processes: int, rank: int) -> DataLoader[SampleBlock]:
    """The blocks of a request that fall to this process."""
    return DataLoader(request, batch_size=None, sampler=BlockSampler(len(request), processes, rank))
