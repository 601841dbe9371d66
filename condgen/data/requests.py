"""Batches of images and of label requests, dealt to processes so that their number changes nothing.

Both loaders are ``DataLoader``s over samplers that Lightning recognises as distributed, and so leaves alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler


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
