"""Interpolation of the noise, which morphs samples into each other."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from condgen.data.requests import SampleRequest
from condgen.files.images import grid, write_gif, write_png
from condgen.generators import ConditionalGenerator
from condgen.noise import slerp
from condgen.sampling.generate import generate_uint8

MAX_LABELS, MAX_SAMPLES = 100, 32  # largest number of labels, and of samples of each label, that are interpolated
FRAME_COLUMNS = 10  # number of labels side by side in a frame


def interpolate(
    generator: ConditionalGenerator, labels: Tensor, noise: Tensor, steps: int, progress: bool = True
) -> Tensor:
    """Interpolates between consecutive samples of each label, and from the last sample back to the first.

    Args:
        generator: Generator of the images.
        labels: L labels, with shape (L,).
        noise: Noise for S samples per label, with shape (L, S, *noise_shape).
        steps: Number of images from one sample to the next.
        progress: Whether to show a progress bar.

    Returns:
        Images with shape (S * steps, L, C, H, W) and dtype uint8. For each label, image
        ``k * steps`` is the k-th sample.
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
    """Writes an interpolation of the requested samples to ``walk.gif`` and ``walk.png``.

    ``walk.gif`` shows the interpolation through all samples, with all labels side by side. ``walk.png`` shows the steps
    from the first sample to the second, with one row for each label.

    Args:
        generator: Generator of the samples.
        request: Request for the samples.
        steps: Number of images from one sample to the next.
        folder: Folder for the two files.
        progress: Whether to show a progress bar.
    """
    each = min(request.samples_per_label, MAX_SAMPLES)
    labels = torch.tensor(request.labels[:MAX_LABELS])
    starts = torch.arange(len(labels))[:, None] * request.samples_per_label
    indices = [request.noise_of(index) for index in (starts + torch.arange(each)).flatten().tolist()]
    noise = generator.sample_noise(request.seed, indices).unflatten(0, (len(labels), each))
    frames = interpolate(generator, labels, noise, steps, progress)
    strip = frames[: steps + 1].transpose(0, 1)  # (labels, steps + 1, C, H, W)
    write_png(grid(strip.flatten(0, 1), steps + 1), folder / "walk.png")
    columns = min(FRAME_COLUMNS, len(labels))
    write_gif([grid(frame, columns) for frame in frames], folder / "walk.gif", milliseconds=60, pause=60)
