"""Requests for samples: blocks of labels and noise indices, divided among processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SampleBlock(NamedTuple):
    """A block of requested samples. All blocks have the same size B: the first and last may exceed the request."""

    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, of the samples in the request
    noise: Tensor  # (B,) int64, indices of their noise
    seed: int


@dataclass(eq=False)
class SampleRequest(Dataset[SampleBlock]):
    """A request for ``samples_per_label`` samples of each of ``labels``, one label after the other.

    Sample i has noise i of the seed; with ``shared_noise`` the k-th sample of every label has noise k. Blocks begin at
    multiples of ``block_size``, so that a request from ``first_index`` generates its samples in the same blocks as the
    whole request.
    """

    labels: list[int]
    samples_per_label: int
    first_index: int
    seed: int
    block_size: int
    shared_noise: bool = False

    @property
    def end(self) -> int:
        """The index after the last sample."""
        return len(self.labels) * self.samples_per_label

    def label_of(self, index: int) -> int:
        """Returns the label of sample ``index``, 0 <= index < end."""
        return self.labels[index // self.samples_per_label]

    def noise_of(self, index: int) -> int:
        """Returns the index of the noise of sample ``index``."""
        return index % self.samples_per_label if self.shared_noise else index

    def __len__(self) -> int:
        return -(-self.end // self.block_size) - self.first_index // self.block_size

    def __getitem__(self, block: int) -> SampleBlock:
        start = (self.first_index // self.block_size + block) * self.block_size
        indices = range(start, start + self.block_size)
        labels = [self.label_of(min(index, self.end - 1)) for index in indices]
        noise = [self.noise_of(index) for index in indices]
        return SampleBlock(torch.tensor(labels), torch.tensor(indices), torch.tensor(noise), self.seed)


class BlockSampler(DistributedSampler[int]):
    """Assigns the blocks to the processes in turn. Lightning leaves a DistributedSampler in place.

    A process without a block gets one beyond the request's end, because Lightning needs a batch on every process.
    """

    def __init__(self, blocks: int, processes: int, rank: int) -> None:
        self.blocks = range(rank, max(blocks, rank + 1), processes)

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: a request has no epochs."""

    def __iter__(self) -> Iterator[int]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)


def request_loader(request: SampleRequest, processes: int, rank: int) -> DataLoader[SampleBlock]:
    """Returns the blocks of a request for one process."""
    return DataLoader(request, batch_size=None, sampler=BlockSampler(len(request), processes, rank))
