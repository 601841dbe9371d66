"""Morphs samples of one label into samples of another one, at fixed noise."""

import torch
from torch import Tensor

from condgen.generators import ConditionalGenerator
from condgen.nn.labels import one_hot
from condgen.sampling.generate import generate_uint8


def interpolate_labels(
    generator: ConditionalGenerator, start: Tensor, end: Tensor, noise: Tensor, steps: int
) -> Tensor:
    """Interpolates between two labels for each sample. The noise stays the same.

    Args:
        generator: The generator to use.
        start: The first label of each sample, as int64 of shape (N,) or class weights of shape (N, num_classes).
        end: The last label of each sample, in the same format.
        noise: Tensor of shape (N, *noise_shape).
        steps: The number of interpolation steps.

    Returns:
        A uint8 tensor of shape (steps + 1, N, C, H, W).
    """
    for labels in (start, end):
        generator.check_labels_and_noise(labels, noise)
    first, last = (one_hot(labels, generator.num_classes).to(noise) for labels in (start, end))
    weights = [torch.lerp(first, last, step / steps) for step in range(steps + 1)]
    return torch.stack([generate_uint8(generator, labels, noise) for labels in weights])
