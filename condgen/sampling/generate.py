"""Functions that generate many samples, on one process or on all of them."""

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

BLOCK = 64  # number of images that are generated at once, to limit memory


@torch.no_grad()
def generate_uint8(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """Generates images in blocks and converts them to uint8.

    Args:
        generator: Generator of the images.
        labels: Labels with shape (N,).
        noise: Noise with shape (N, *noise_shape).

    Returns:
        Images with shape (N, C, H, W) and dtype uint8, on the CPU.
    """
    blocks = zip(labels.split(BLOCK), noise.split(BLOCK), strict=True)
    device = generator.device
    return torch.cat([to_bytes(generator.generate(*(part.to(device) for part in block)).float()) for block in blocks])


def sample_all_ranks(trainer: Trainer, generator: ConditionalGenerator, samples_per_label: int) -> tuple[Images, float]:
    """Generates samples of each label and divides the work among all processes. All processes must call it.

    The samples are the same as those of ``condgen predict``.

    Args:
        trainer: Trainer whose processes generate the samples.
        generator: Generator of the samples.
        samples_per_label: Number of samples of each label.

    Returns:
        All samples, ordered by label and available on every process, and the elapsed time in seconds.
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
    images = trainer.strategy.reduce(images, reduce_op="sum")  # each process has zeros for the samples of the others
    return Images(images.cpu(), labels), time.monotonic() - began


def sample_grid(generator: ConditionalGenerator, labels: Sequence[int], samples_per_label: int, seed: int) -> Tensor:
    """Generates a grid of samples with one row for each label.

    Args:
        generator: Generator of the samples.
        labels: Labels of the rows.
        samples_per_label: Number of columns.
        seed: Seed of the noise.

    Returns:
        The grid as one image with shape (3, H, W) and dtype uint8.
    """
    each = torch.tensor(labels).repeat_interleave(samples_per_label)
    return grid(generate_uint8(generator, each, generator.sample_noise(seed, range(len(each)))), samples_per_label)
