"""Interpolation through the noise: samples that turn into each other."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from condgen.data.requests import SampleRequest
from condgen.files.images import grid, write_gif, write_png
from condgen.generators import ConditionalGenerator
from condgen.noise import slerp
from condgen.sampling.generate import generate_uint8

MAX_LABELS, MAX_SAMPLES = 100, 32  # that are interpolated; of each label
FRAME_COLUMNS = 10  # labels side by side in a frame


def interpolate(
    generator: ConditionalGenerator, labels: Tensor, noise: Tensor, steps: int, progress: bool = True
) -> Tensor:
    """Generates ``steps`` images from each sample to the next one, and from the last sample back to the first.

    Args:
        labels: (L,).
        noise: (L, S, *noise_shape), of S samples of each label.

    Returns:
        (S * steps, L, C, H, W) uint8: every ``steps``-th is a sample.
    """
    weights, following, frames = torch.arange(steps) / steps, noise.roll(-1, dims=1), []
    numbers = range(noise.shape[1])
    for number in tqdm(numbers, desc="Interpolating", disable=not progress, leave=False, mininterval=1, delay=1):
        ends = zip(noise[:, number], following[:, number], strict=True)
        paths = torch.stack([slerp(a, b, weights, generator.noise_distribution) for a, b in ends], dim=1)
        images = generate_uint8(generator, labels.repeat(steps), paths.flatten(0, 1))
        frames.append(images.unflatten(0, (steps, len(labels))))
    return torch.cat(frames)


def write_interpolation(
    generator: ConditionalGenerator, request: SampleRequest, steps: int, folder: Path, progress: bool = True
) -> None:
    """Writes ``walk.gif``, an interpolation through the requested samples with all labels side by side, and
    ``walk.png``, the steps from each label's first sample to its second, a row for each label.
    """
    each = min(request.samples_per_label, MAX_SAMPLES)
    labels = torch.tensor(request.labels[:MAX_LABELS])
    starts = torch.arange(len(labels))[:, None] * request.samples_per_label
    indices = [request.noise_of(index) for index in (starts + torch.arange(each)).flatten().tolist()]
    noise = generator.draw_noise(request.seed, indices).unflatten(0, (len(labels), each))
    frames = interpolate(generator, labels, noise, steps, progress)
    strip = frames[: steps + 1].transpose(0, 1)  # (labels, steps + 1, C, H, W)
    write_png(grid(strip.flatten(0, 1), steps + 1), folder / "walk.png")
    columns = min(FRAME_COLUMNS, len(labels))
    write_gif([grid(frame, columns) for frame in frames], folder / "walk.gif", milliseconds=60, pause=60)
