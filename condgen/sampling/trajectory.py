"""Films that show how samples emerge from their noise."""

from pathlib import Path

import torch
from torch import Tensor

from condgen.data.mixes import label_tensor
from condgen.data.requests import SampleRequest
from condgen.files.images import grid, to_bytes, write_gif, write_png
from condgen.generators import ConditionalGenerator

SAMPLES, FRAMES, COLUMNS = 10, 61, 7  # samples in a film, its maximum number of frames, and how many the PNG shows


def filmed_samples(request: SampleRequest) -> list[int]:
    """Returns the indices of the samples to film: the first of each label, then the second of each label, etc."""
    starts = range(0, request.end, request.samples_per_label)
    indices = (start + number for number in range(request.samples_per_label) for start in starts[:SAMPLES])
    return sorted(index for index, _ in zip(indices, range(SAMPLES), strict=False))


def labels_and_noise(generator: ConditionalGenerator, request: SampleRequest) -> tuple[Tensor, Tensor]:
    """Returns the labels and the noise of the samples to film, on the CPU."""
    indices = filmed_samples(request)
    labels = label_tensor([request.label_of(index) for index in indices])
    return labels, generator.sample_noise(request.seed, [request.noise_of(index) for index in indices])


def write_trajectory(generator: ConditionalGenerator, request: SampleRequest, folder: Path) -> None:
    """Saves films of up to ten of the requested samples as ``trajectory.gif`` and ``trajectory.png``.

    The GIF shows the samples side by side. The PNG has a row per sample, from the noise on the left to the image on the
    right. If the generator makes a prediction in each step, it is shown below x_t.

    Args:
        generator: The generator to use.
        request: The samples to choose from.
        folder: The output folder.
    """
    labels, noise = labels_and_noise(generator, request)
    film = filmed(generator, labels.to(generator.device), noise.to(generator.device))
    columns = torch.linspace(0, len(film) - 1, min(COLUMNS, len(film))).long()
    write_png(grid(film[columns].transpose(0, 1).flatten(0, 1), len(columns)), folder / "trajectory.png")
    write_gif([grid(frame, len(labels)) for frame in film], folder / "trajectory.gif", milliseconds=80, pause=2000)


@torch.no_grad()
def filmed(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """Returns the frames as a uint8 tensor of shape (F, N, C, R * H, W), with R images per sample above each other."""
    film = to_bytes(generator.trajectory(labels, noise, FRAMES).float())  # (F, R, N, C, H, W)
    frames, rows, samples, channels, height, width = film.shape
    return film.permute(0, 2, 3, 1, 4, 5).reshape(frames, samples, channels, rows * height, width)
