"""Computes the images for requests from the page."""

import math
from typing import Literal

import torch
from torch import Tensor

from condgen.data.loader import Images
from condgen.demo.requests import FilmRequest, MixRequest, MorphRequest, NoiseRequest
from condgen.demo.runs import Run
from condgen.errors import UsageError, check_number
from condgen.generators import ConditionalGenerator
from condgen.metrics.distances import nearest
from condgen.noise import slerp
from condgen.sampling.generate import generate_uint8
from condgen.sampling.trajectory import filmed

MAX_NFE = 10_000  # the maximum number of network evaluations per run and request


def interpolate(run: Run, label: int, request: MorphRequest, parts: list[float]) -> Tensor:
    """Generates the images between the two requested samples.

    Args:
        run: The run to sample from.
        label: The label for all of the images.
        request: Provides the seed and the indices of the two samples.
        parts: Interpolation weights between 0 (first sample) and 1 (second sample).

    Returns:
        A uint8 tensor of shape (N, C, H, W), with one image per weight.
    """
    generator = run.generator(guidance=request.guidance, sampling_steps=request.sampling_steps)
    start, end = generator.sample_noise(request.seed, [request.from_sample, request.to_sample])
    noise = slerp(start, end, torch.tensor(parts), generator.noise_distribution)
    return generate(generator, torch.full((len(parts),), label), noise)


def mixed(run: Run, labels: list[int], weights: list[float], request: MixRequest) -> Tensor:
    """Generates the requested samples for a mix of labels.

    Args:
        run: The run to sample from.
        labels: The labels.
        weights: The weight of each label. They must add up to 1.
        request: Provides the seed and the number of samples.

    Returns:
        A uint8 tensor of shape (N, C, H, W).
    """
    generator = run.generator(guidance=request.guidance, sampling_steps=request.sampling_steps)
    class_weights = torch.zeros(request.samples, generator.num_classes)
    class_weights[:, labels] = torch.tensor(weights)
    return generate(generator, class_weights, generator.sample_noise(request.seed, range(request.samples)))


def film(run: Run, label: int, request: FilmRequest) -> Tensor:
    """Films the requested samples. Returns the frames as a uint8 tensor of shape (F, N, C, R * H, W)."""
    generator = run.generator(guidance=request.guidance, sampling_steps=request.sampling_steps)
    noise = generator.sample_noise(request.seed, range(request.samples))
    return filmed(generator, torch.full((request.samples,), label), noise)


def move(run: Run, label: int, request: NoiseRequest, values: list[float]) -> Tensor:
    """Regenerates the requested sample with each of the given values for one noise coordinate.

    Returns:
        A uint8 tensor of shape (N, C, H, W), with one image per value.
    """
    generator = run.generator(guidance=request.guidance, sampling_steps=request.sampling_steps)
    noise = flat_noise(generator, request).repeat(len(values), 1)
    noise[:, request.coordinate] = torch.tensor(values)
    return generate(generator, torch.full((len(values),), label), noise.unflatten(1, generator.noise_shape))


def flat_noise(generator: ConditionalGenerator, request: NoiseRequest) -> Tensor:
    """Returns the noise for the requested sample as a vector of shape (D,).

    Raises:
        UsageError: If the coordinate is not between 0 and D - 1.
    """
    check_number("coordinate", request.coordinate, at_least=0, at_most=math.prod(generator.noise_shape) - 1)
    return generator.sample_noise(request.seed, [request.sample]).flatten()


def generate(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """Same as ``generate_uint8``, but raises a UsageError if it would take more than MAX_NFE network evaluations."""
    if (evaluations := len(labels) * generator.nfe) > MAX_NFE:
        raise UsageError(
            f"{evaluations:,} evaluations of the network would take too long: choose fewer samples or sampling steps, "
            f"for at most {MAX_NFE:,} evaluations."
        )
    return generate_uint8(generator, labels, noise)


def nearest_training_images(run: Run, samples: Images) -> tuple[Tensor, Tensor]:
    """For each sample, finds the nearest training image with the same label.

    Returns:
        A tuple with the nearest images (uint8, of shape (N, C, H, W)) and their distances (of shape (N,)). The distance
        is Euclidean, computed on pixels in [0, 1]. If there are no training images for a label, the result is a black
        image at infinite distance.

    Raises:
        UsageError: If the dataset is not available locally.
    """
    training = local_images(run, "training")
    found, distances = torch.zeros_like(samples.images), torch.full((len(samples),), math.inf)
    for label in samples.labels.unique():
        rows, references = samples.labels == label, training.images[training.labels == label]
        if len(references):
            label_distances, indices = nearest(samples.images[rows].flatten(1), references.flatten(1))
            found[rows], distances[rows] = references[indices], label_distances.float() / 255
    return found, distances


def local_images(run: Run, split: Literal["training", "test"]) -> Images:
    """Returns the training or test images of a run's dataset.

    Raises:
        UsageError: If the dataset is not available locally.
    """
    try:
        run.data.setup("fit")  # skip prepare_data() so that nothing is downloaded
    except UsageError as error:
        raise UsageError(
            f"The {split} images of {run.name} cannot be read from {run.data.root}: start condgen demo in the folder "
            "that contains it."
        ) from error
    return run.data.train_images if split == "training" else run.data.val_images
