"""What runs draw for a request of the page, as images; every bound of a request is checked here, whoever sends it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from condgen.batches import Images
from condgen.data import LabelledImages
from condgen.demo.shown import Run, whole
from condgen.errors import UsageError, check_number
from condgen.evaluation.sets import nearest
from condgen.generators import ConditionalGenerator
from condgen.noise import Distribution, between
from condgen.pictures import to_bytes

LABELS, EACH, IMAGES, EVALUATIONS = 20, 20, 400, 10_000  # of one run in one request, at most
LARGEST_SEED, LARGEST_SAMPLE = 2**53, 999_999  # what browsers' numbers hold; what nobody counts to
RANGES: dict[Distribution, tuple[float, float]] = {"uniform": (0.0, 1.0), "normal": (-3.0, 3.0)}  # of one coordinate


def labels_of(data: LabelledImages, text: str | None) -> list[int]:
    """The labels of what was typed.

    Raises:
        UsageError: there are none, too many, or there is no such class.
    """
    text = text.strip() if isinstance(text, str) else ""
    if not text:
        raise UsageError(f"Type what to draw: one or more of {', '.join(data.classes):.300}.")
    if len(text) > 400:
        raise UsageError(f"That is too long: type at most {LABELS} of {data.full_name}'s names.")
    try:
        labels = data.spelled(text)
    except UsageError as error:  # there it is an option of the command line
        raise UsageError(str(error).removeprefix("data.labels is ")) from error
    if len(labels) > LABELS:
        raise UsageError(f"{text!r:.60} are {len(labels)} images a row: type at most {LABELS}.")
    return labels


def draw(run: Run, text: str | None, each: float, seed: float, generator: ConditionalGenerator) -> Images:
    """What ``condgen predict`` draws: each of the labels so many times, sample i of the seed for the i-th image.

    Returns:
        Images (N, C, H, W) uint8 and their labels (N,).

    Raises:
        UsageError: more is asked for than a page should draw, or what there is not.
    """
    labels = labels_of(run.data, text)
    each = whole("samples", each, 1, EACH)
    if len(labels) * each > IMAGES:
        raise UsageError(f"These are {len(labels) * each} images: ask for at most {IMAGES}.")
    wanted = torch.tensor(labels).repeat_interleave(each)
    return Images(_images(generator, wanted, generator.draw_noise(_seed(seed), range(len(wanted)))), wanted)


@torch.no_grad()
def _images(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """(N,) labels and (N, *noise_shape) noise to (N, C, H, W) uint8."""
    if (evaluations := len(labels) * generator.evaluations_per_sample) > EVALUATIONS:
        raise UsageError(
            f"{evaluations:,} evaluations of the network would take long: ask for fewer samples or steps, "
            f"{EVALUATIONS:,} at most."
        )
    return to_bytes(generator.generate(labels, noise).float())


def _seed(seed: float) -> int:
    return whole("seed", seed, 0, LARGEST_SEED)


def _noise(generator: ConditionalGenerator, seed: float, sample: float) -> Tensor:
    """The noise of one sample: (*noise_shape)."""
    return generator.draw_noise(_seed(seed), [whole("sample", sample, 0, LARGEST_SAMPLE)])[0]


def _one_label(run: Run, name: str | None) -> int:
    labels = labels_of(run.data, name)
    if len(labels) != 1:
        raise UsageError(f"{name!r:.60} are {len(labels)} labels: give one.")
    return labels[0]


def morph(
    run: Run,
    name: str | None,
    seed: float,
    first: float,
    second: float,
    parts: Sequence[float],
    generator: ConditionalGenerator,
) -> Tensor:
    """On the way from one sample of a label to another, whose ``parts`` (N,) of it in [0, 1]: (N, C, H, W) uint8."""
    for part in parts:
        check_number("The part of the way", part, at_least=0, at_most=1)
    label = torch.tensor([_one_label(run, name)] * len(parts))
    ends = _noise(generator, seed, first), _noise(generator, seed, second)
    return _images(generator, label, between(*ends, torch.tensor(parts), generator.noise_distribution))


def own_value(seed: float, sample: float, coordinate: float, generator: ConditionalGenerator) -> float:
    """The value that one coordinate of a sample's noise has."""
    number = whole("coordinate", coordinate, 0, math.prod(generator.noise_shape) - 1)
    return float(_noise(generator, seed, sample).flatten()[number])


def move(
    run: Run,
    name: str | None,
    seed: float,
    sample: float,
    coordinate: float,
    values: Sequence[float],
    generator: ConditionalGenerator,
) -> Tensor:
    """One sample of a label with other ``values`` (N,) of one coordinate of its noise: (N, C, H, W) uint8."""
    low, high = RANGES[generator.noise_distribution]
    for value in values:
        check_number("The coordinate's value", value, at_least=int(low), at_most=int(high))
    number = whole("coordinate", coordinate, 0, math.prod(generator.noise_shape) - 1)
    noise = _noise(generator, seed, sample).repeat(len(values), *[1] * len(generator.noise_shape))
    noise.view(len(values), -1)[:, number] = torch.tensor(values)
    return _images(generator, torch.tensor([_one_label(run, name)] * len(values)), noise)


def nearest_training_images(run: Run, samples: Images) -> tuple[Tensor, Tensor]:
    """Of each sample the training image of its label with the least distance of pixels, and that distance.

    Only what is on the disk is used.

    Returns:
        (N, C, H, W) uint8, and (N,) distances of images in [0, 1]; black and infinitely far where there is none.

    Raises:
        UsageError: the training images are not where the run found them.
    """
    try:
        run.data.setup("fit")  # without prepare_data(), which downloads
    except UsageError as error:
        raise UsageError(f"The images on which {run.name} was trained are not on this disk ({error})") from error
    training = run.data.train_images
    found, far = torch.zeros_like(samples.images), torch.full((len(samples),), math.inf)
    for label in samples.labels.unique():
        mine, references = samples.labels == label, training.images[training.labels == label]
        if len(references):
            distances, rows = nearest(samples.images[mine].flatten(1), references.flatten(1))
            found[mine], far[mine] = references[rows], distances.float() / 255
    return found, far


def epochs(run: Run) -> list[Path]:
    """The grids that a training left after its epochs, the first one first.

    Raises:
        UsageError: there are none.
    """
    grids = sorted((run.folder / "samples").glob("epoch=*.png"), key=lambda path: (len(path.name), path.name))
    if not grids:
        raise UsageError(f"{run.folder}/samples has no grids of epochs: `condgen fit` writes them.")
    return grids
