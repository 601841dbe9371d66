"""Morphs samples into each other by interpolating their noise."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from condgen.data.mixes import label_tensor
from condgen.data.requests import SampleRequest
from condgen.files.images import grid, write_gif, write_png
from condgen.generators import ConditionalGenerator
from condgen.noise import slerp
from condgen.sampling.generate import generate_uint8

MAX_LABELS, MAX_SAMPLES = 100, 32  # any labels or samples beyond this are ignored
FRAME_COLUMNS = 10  # how many labels to show side by side


def interpolate(
    generator: ConditionalGenerator, labels: Tensor, noise: Tensor, steps: int, progress: bool = True
) -> Tensor:
    """Interpolates between consecutive samples of each label, eventually returning to the first one.

    Args:
        generator: The generator to use.
        labels: Tensor of shape (L,), or class weights of shape (L, num_classes).
        noise: Tensor of shape (L, S, *noise_shape), where S is the number of samples per label.
        steps: The number of interpolation steps between two samples.
        progress: Whether to show a progress bar.

    Returns:
        A uint8 tensor of shape (S * steps, L, C, H, W), with the k-th sample at index ``k * steps``.
    """
    weights, following, frames = torch.arange(steps) / steps, noise.roll(-1, dims=1), []
    numbers = range(noise.shape[1])
    for number in tqdm(numbers, desc="Interpolating", disable=not progress, leave=False, mininterval=1, delay=1):
        ends = zip(noise[:, number], following[:, number], strict=True)
        paths = torch.stack([slerp(a, b, weights, generator.noise_distribution) for a, b in ends], dim=1)
        images = generate_uint8(generator, torch.cat([labels] * steps), paths.flatten(0, 1))
        frames.append(images.unflatten(0, (steps, len(labels))))
    return torch.cat(frames)


def write_interpolation(
    generator: ConditionalGenerator, request: SampleRequest, steps: int, folder: Path, progress: bool = True
) -> None:
    """Interpolates between the requested samples and saves the result as ``walk.gif`` and ``walk.png``.

    The GIF goes through all of the samples, showing all labels side by side. The PNG only covers the first two samples,
    with one row per label.

    Args:
        generator: The generator to use.
        request: The samples to interpolate between.
        steps: The number of interpolation steps between two samples.
        folder: The output folder.
        progress: Whether to show a progress bar.
    """
    each = min(request.samples_per_label, MAX_SAMPLES)
    labels = label_tensor(request.labels[:MAX_LABELS])
    starts = torch.arange(len(labels))[:, None] * request.samples_per_label
    indices = [request.noise_of(index) for index in (starts + torch.arange(each)).flatten().tolist()]
    noise = generator.sample_noise(request.seed, indices).unflatten(0, (len(labels), each))
    frames = interpolate(generator, labels, noise, steps, progress)
    strip = frames[: steps + 1].transpose(0, 1)  # (labels, steps + 1, C, H, W)
    write_png(grid(strip.flatten(0, 1), steps + 1), folder / "walk.png")
    columns = min(FRAME_COLUMNS, len(labels))
    write_gif([grid(frame, columns) for frame in frames], folder / "walk.gif", milliseconds=60, pause=60)
