"""A walk through the noise: samples that turn into each other, as pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from condgen.data.requests import SampleRequest
from condgen.files.images import grid, write_gif, write_png
from condgen.generators import ConditionalGenerator
from condgen.noise import between
from condgen.sampling.generate import generate_uint8

COLUMNS = 10  # of labels, in a frame


def interpolate(
    generator: ConditionalGenerator, labels: Tensor, noise: Tensor, steps: int, progress: bool = True
) -> Tensor:
    """Samples on the way from each noise to the next one, and from the last to the first again.

    Args:
        generator: draws them.
        labels: (L,), which walk side by side.
        noise: (L, S, *noise_shape), S of each label.
        steps: from one to the next.
        progress: whether to show a progress bar.

    Returns:
        (S * steps, L, C, H, W) uint8: every ``steps``-th is a sample.
    """
    parts, following, frames = torch.arange(steps) / steps, noise.roll(-1, dims=1), []
    numbers = range(noise.shape[1])
    for number in tqdm(numbers, desc="Walking", disable=not progress, leave=False, mininterval=1, delay=1):
        ends = zip(noise[:, number], following[:, number], strict=True)
        ways = torch.stack([between(a, b, parts, generator.noise_distribution) for a, b in ends], dim=1)
        drawn = generate_uint8(generator, labels.repeat(steps), ways.flatten(0, 1))
        frames.append(drawn.unflatten(0, (steps, len(labels))))
    return torch.cat(frames)


def write_interpolation(
    generator: ConditionalGenerator,
    request: SampleRequest,
    steps: int,
    most: tuple[int, int],
    folder: Path,
    progress: bool = True,
) -> None:
    """Writes ``walk.gif``, in which all labels walk side by side through their samples, and ``walk.png``, a row a
    label: the way from its first sample to its second.

    Args:
        generator: draws them.
        request: of the samples.
        steps: from one sample to the next.
        most: so many labels walk, and through so many samples each.
        folder: for the files.
        progress: whether to show a progress bar.
    """
    each = min(request.samples_per_label, most[1])
    labels = torch.tensor(request.labels[: most[0]])
    starts = torch.arange(len(labels))[:, None] * request.samples_per_label
    numbers = [request.noise_of(index) for index in (starts + torch.arange(each)).flatten().tolist()]
    noise = generator.draw_noise(request.seed, numbers).unflatten(0, (len(labels), each))
    frames = interpolate(generator, labels, noise, steps, progress)
    strip = frames[: steps + 1].transpose(0, 1)  # (labels, steps + 1, C, H, W)
    write_png(grid(strip.flatten(0, 1), steps + 1), folder / "walk.png")
    columns = min(COLUMNS, len(labels))
    write_gif([grid(frame, columns) for frame in frames], folder / "walk.gif", milliseconds=60, pause=60)
