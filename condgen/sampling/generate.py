"""Functions for generating large numbers of samples, on a single process or distributed."""

import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from tqdm import tqdm

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.data.requests import SampleRequest, request_loader
from condgen.files.images import grid, to_bytes
from condgen.generators import ConditionalGenerator

T = TypeVar("T")
BLOCK = 64  # how many images to generate at once, to save memory


@torch.no_grad()
def generate_uint8(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """Generates images in small batches to save memory, and converts them to uint8.

    Args:
        generator: The generator to use.
        labels: Tensor of shape (N,), or class weights of shape (N, num_classes).
        noise: Tensor of shape (N, *noise_shape).

    Returns:
        A uint8 tensor of shape (N, C, H, W) on the CPU.
    """
    blocks = zip(labels.split(BLOCK), noise.split(BLOCK), strict=True)
    device = generator.device
    return torch.cat([to_bytes(generator.generate(*(part.to(device) for part in block)).float()) for block in blocks])


def rank_zero_progress(trainer: Trainer, items: Iterable[T], title: str) -> Iterable[T]:
    """Shows a progress bar on rank 0 while iterating over the items, unless the trainer's progress bar is disabled."""
    is_silent = trainer.global_rank > 0 or trainer.progress_bar_callback is None
    return tqdm(items, desc=title, disable=is_silent, leave=False, mininterval=1)


def sample_all_ranks(trainer: Trainer, generator: ConditionalGenerator, samples_per_label: int) -> tuple[Images, float]:
    """Generates samples for all labels, splitting the work across processes.

    Must be called on all ranks. The result is the same as with ``condgen predict``.

    Args:
        trainer: The trainer to get the processes and data module from.
        generator: The generator to use.
        samples_per_label: The number of samples per label.

    Returns:
        The full set of samples ordered by label (on every rank), and how long it took in seconds.
    """
    began = time.monotonic()
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    request = SampleRequest(range(data.num_classes), samples_per_label, 0, data.sample_seed, data.block_size)
    labels = torch.arange(data.num_classes).repeat_interleave(samples_per_label)
    images = torch.zeros(request.end, *generator.image_shape, dtype=torch.uint8, device=generator.device)
    blocks = request_loader(request, trainer.world_size, trainer.global_rank)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for block in rank_zero_progress(trainer, blocks, "Sampling"):
            requested = block.indices < request.end
            block = block._replace(labels=block.labels.to(generator.device))
            images[block.indices[requested]] = to_bytes(generator.predict_step(block))[requested].to(images)
    images = trainer.strategy.reduce(images, reduce_op="sum")  # samples from other ranks are zero
    return Images(images.cpu(), labels), time.monotonic() - began


def sample_grid(generator: ConditionalGenerator, labels: Sequence[int], samples_per_label: int, seed: int) -> Tensor:
    """Generates a grid of samples with one row per label.

    Args:
        generator: The generator to use.
        labels: The label for each row.
        samples_per_label: The number of columns.
        seed: The sampling seed.

    Returns:
        The grid as a single uint8 image of shape (3, H, W).
    """
    each = torch.tensor(labels).repeat_interleave(samples_per_label)
    return grid(generate_uint8(generator, each, generator.sample_noise(seed, range(len(each)))), samples_per_label)
