"""Requests for samples. A request is divided into blocks, and the blocks are divided among the processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SampleBlock(NamedTuple):
    """A block of requested samples.

    All blocks have the same size B, so the first and the last block may contain samples that were not requested.
    """

    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, indices of the samples in the request
    noise: Tensor  # (B,) int64, indices of their noise
    seed: int


@dataclass(eq=False)
class SampleRequest(Dataset[SampleBlock]):
    """A request for samples, which are ordered by label.

    Blocks begin at multiples of ``block_size``, so that a request that starts at ``first_index`` generates its samples
    in the same blocks as the whole request.

    Args:
        labels: Labels to generate.
        samples_per_label: Number of samples of each label.
        first_index: Index of the first sample to generate.
        seed: Seed of the noise.
        block_size: Number of samples that are generated at once.
        shared_noise: Whether the k-th sample of every label has the noise with index k. By default, the sample with
            index i has the noise with index i.
    """

    labels: list[int]
    samples_per_label: int
    first_index: int
    seed: int
    block_size: int
    shared_noise: bool = False

    @property
    def end(self) -> int:
        """Index of the last sample plus 1."""
        return len(self.labels) * self.samples_per_label

    def label_of(self, index: int) -> int:
        """Returns the label of the sample with this index, 0 <= index < end."""
        return self.labels[index // self.samples_per_label]

    def noise_of(self, index: int) -> int:
        """Returns the noise index of the sample with this index."""
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
    """Assigns blocks to processes: rank 0 gets the first block, rank 1 the second, and so on.

    If there are fewer blocks than processes, some processes get a block beyond the end of the request, because
    Lightning needs a batch on every process. The sampler is a DistributedSampler because Lightning replaces other
    samplers if there are several processes.

    Args:
        blocks: Number of blocks.
        processes: Number of processes.
        rank: Rank of this process.
    """

    def __init__(self, blocks: int, processes: int, rank: int) -> None:
        self.blocks = range(rank, max(blocks, rank + 1), processes)

    def set_epoch(self, epoch: int) -> None:
        """Does nothing, because a request has no epochs."""

    def __iter__(self) -> Iterator[int]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)


def request_loader(request: SampleRequest, processes: int, rank: int) -> DataLoader[SampleBlock]:
    """Returns a data loader that yields the blocks of a request that one process generates."""
    return DataLoader(request, batch_size=None, sampler=BlockSampler(len(request), processes, rank))
