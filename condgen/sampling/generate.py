"""Generates sets of samples."""

import time
from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from tqdm import tqdm

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.data.requests import SampleRequest, request_loader
from condgen.files.images import grid, to_bytes
from condgen.generators import ConditionalGenerator

BLOCK = 64  # images that are generated at once, so that memory does not grow with their number


@torch.no_grad()
def generate_uint8(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """Generates the images (N, C, H, W) uint8, on the CPU, of labels (N,) and noise (N, *noise_shape)."""
    blocks = zip(labels.split(BLOCK), noise.split(BLOCK), strict=True)
    device = generator.device
    return torch.cat([to_bytes(generator.generate(*(part.to(device) for part in block)).float()) for block in blocks])


def sample_all_ranks(trainer: Trainer, generator: ConditionalGenerator, samples_per_label: int) -> tuple[Images, float]:
    """Generates samples of each label on all processes, the same ones as ``condgen predict``. A collective.

    Returns:
        All samples in their order, on every process, and the seconds that it took.
    """
    began = time.monotonic()
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    request = SampleRequest(list(range(data.num_classes)), samples_per_label, 0, data.sample_seed, data.block_size)
    labels = torch.tensor([request.label_of(index) for index in range(request.end)])
    images = torch.zeros(request.end, *generator.image_shape, dtype=torch.uint8, device=generator.device)
    blocks = request_loader(request, trainer.world_size, trainer.global_rank)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        is_silent = trainer.global_rank > 0 or trainer.progress_bar_callback is None
        for block in tqdm(blocks, desc="Sampling", disable=is_silent, leave=False, mininterval=1):
            requested = block.indices < request.end
            block = block._replace(labels=block.labels.to(generator.device))
            images[block.indices[requested]] = to_bytes(generator.predict_step(block))[requested].to(images)
    images = trainer.strategy.reduce(images, reduce_op="sum")  # zeros for the samples of other processes
    return Images(images.cpu(), labels), time.monotonic() - began


def sample_grid(generator: ConditionalGenerator, labels: Sequence[int], samples_per_label: int, seed: int) -> Tensor:
    """Returns a grid of the first samples of a seed, a row for each label: one image (3, H, W) uint8."""
    each = torch.tensor(labels).repeat_interleave(samples_per_label)
    return grid(generate_uint8(generator, each, generator.draw_noise(seed, range(len(each)))), samples_per_label)
