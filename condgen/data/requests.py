"""Sample requests, which are split into blocks and distributed across processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from condgen.data.mixes import Mix, label_tensor


class SampleBlock(NamedTuple):
    """A block of requested samples.

    All blocks have the same size B, so the first and last block may contain samples that weren't requested.
    """

    labels: Tensor  # (B,) int64, or class weights (B, num_classes) if the block contains a mix
    indices: Tensor  # (B,) int64, sample indices within the request
    noise: Tensor  # (B,) int64, noise indices
    seed: int


@dataclass(eq=False)
class SampleRequest(Dataset[SampleBlock]):
    """A request for samples, ordered by label.

    Blocks always start at a multiple of ``block_size``, so that a request that starts at ``first_index`` generates its
    samples in the same blocks as the full request.

    Args:
        labels: The labels or mixes of labels to generate.
        samples_per_label: The number of samples per label.
        first_index: The index of the first sample to generate.
        seed: The noise seed.
        block_size: The number of samples to generate at once.
        shared_noise: Whether the k-th sample of every label uses the noise with index k. By default, each sample uses
            the noise with its own index.
    """

    labels: Sequence[int | Mix]
    samples_per_label: int
    first_index: int
    seed: int
    block_size: int
    shared_noise: bool = False

    @property
    def end(self) -> int:
        """The index of the last sample plus 1."""
        return len(self.labels) * self.samples_per_label

    def label_of(self, index: int) -> int | Mix:
        """Returns the label or mix for a sample index in [0, end)."""
        return self.labels[index // self.samples_per_label]

    def noise_of(self, index: int) -> int:
        """Returns the noise index for a sample index."""
        return index % self.samples_per_label if self.shared_noise else index

    def __len__(self) -> int:
        return -(-self.end // self.block_size) - self.first_index // self.block_size

    def __getitem__(self, block: int) -> SampleBlock:
        start = (self.first_index // self.block_size + block) * self.block_size
        indices = range(start, start + self.block_size)
        labels = [self.label_of(min(index, self.end - 1)) for index in indices]
        noise = [self.noise_of(index) for index in indices]
        return SampleBlock(label_tensor(labels), torch.tensor(indices), torch.tensor(noise), self.seed)


class BlockSampler(DistributedSampler[int]):
    """Distributes blocks across processes. Rank 0 gets the first block, rank 1 the second one, and so on.

    If there are more processes than blocks, the extra ones get a block past the end of the request since Lightning
    needs a batch on every process. As in :class:`condgen.data.loader.ImageSampler`, we inherit from DistributedSampler
    so that Lightning doesn't replace the sampler.
    """

    def __init__(self, blocks: int, processes: int, rank: int) -> None:
        self.blocks = range(rank, max(blocks, rank + 1), processes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)


def request_loader(request: SampleRequest, processes: int, rank: int) -> DataLoader[SampleBlock]:
    """Returns a data loader for the blocks that the given rank has to generate."""
    return DataLoader(request, batch_size=None, sampler=BlockSampler(len(request), processes, rank))
