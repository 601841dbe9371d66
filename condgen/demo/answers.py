"""What the page answers to a request: what runs draw for it, as HTML. Whoever sends it, every bound is checked here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.demo.figures import animation, caption, figure, film, npz, picture, read_png, saving, score_tables
from condgen.demo.shown import Run, Setting, chosen, whole
from condgen.errors import UsageError, check_number
from condgen.files.images import grid, png
from condgen.generators import ConditionalGenerator
from condgen.metrics.distances import nearest
from condgen.noise import Distribution, between
from condgen.sampling.generate import generate_uint8

RUNS, LABELS, EACH, IMAGES, EVALUATIONS = 8, 20, 20, 400, 10_000  # at most; the last two of one run
RANGES: dict[Distribution, tuple[int, int]] = {"uniform": (0, 1), "normal": (-3, 3)}  # of one number of the noise
STRIP, FRAMES, FILM = 11, 21, 40  # images of a way, of half an animation, and of a training, at most
KINDS: dict[Any, tuple[Any, str]] = {  # of the annotations below: the types that JSON has for them
    str: (str, "a string"),
    str | None: (str | None, "a string"),
    float: ((int, float), "a number"),
    bool: (bool, "true or false"),
    list[str]: (list, "a list of strings"),
    Setting: (str | int | float | None, "a number, or nothing for that of the training"),
}
TINT = torch.tensor([255, 196, 110]).view(3, 1, 1)  # of training images


class Answers:
    """A method for each kind of request; ``settings`` are guidance and sampling steps as typed, nothing as trained.

    All raise UsageError with what is wrong with the request.

    Args:
        runs: that can be asked for, by their names.
    """

    def __init__(self, runs: dict[str, Run]) -> None:
        self.runs = runs

    def _some(self, names: list[str]) -> list[Run]:
        if not 1 <= len(names) <= RUNS:
            raise UsageError(f"{len(names)} runs are chosen: choose 1 to {RUNS}.")
        return [chosen(self.runs, name) for name in names]

    def side_by_side(
        self, names: list[str], text: str, samples_of_each: float, seed: float, near: bool = False, *settings: Setting
    ) -> str:
        """The samples of each run, as ``condgen predict`` does; if ``near``, with the nearest training images below."""
        figures, each = [], whole("samples", samples_of_each, 1, EACH)
        for run in self._some(names):
            labels = torch.tensor(labels_of(run.data, text)).repeat_interleave(each)
            if len(labels) > IMAGES:
                raise UsageError(f"These are {len(labels)} images: ask for at most {IMAGES}.")
            generator = run.generator(*settings)
            noise = generator.draw_noise(whole("seed", seed, 0, 2**53), range(len(labels)))  # 2**53: as browsers count
            samples, said = Images(generate(generator, labels, noise), labels), caption(run, generator)
            shown = samples.images
            if near:
                found, far = nearest_training_images(run, samples)
                pairs = torch.stack((shown.expand(-1, 3, -1, -1), found.expand(-1, 3, -1, -1) * TINT // 255)).byte()
                shown = pairs.unflatten(1, (-1, each)).transpose(0, 1).flatten(0, 2)  # a row of each in turn
                said.append(f"distance {far.mean():.1f}, the least {far.min():.1f}")
            content, file = png(grid(shown, each)), f"{run.family}-{run.name}-seed-{int(seed)}"
            links = [saving(f"{file}.png", content), saving(f"{file}.npz", npz(samples))]
            figures.append(figure(picture(content, f"{text} by {run.family}"), run.family, said, links))
        return "".join(figures)

    def morph(
        self, part: float, name: str, label: str, seed: float, first: float, second: float, *settings: Setting
    ) -> str:
        """A sample on the way from one to another."""
        check_number("The part of the way", part, at_least=0, at_most=1)
        run, images = self._on_the_way([part], name, label, seed, first, second, *settings)
        said = f"{part:.0%} of the way from sample {first:.0f} to sample {second:.0f}"
        return figure(picture(png(images[0]), said, times=10), f"{label} by {run.family}", [said])

    def way(
        self, name: str, label: str, seed: float, first: float, second: float, *settings: Setting
    ) -> tuple[str, str]:
        """The whole way from one sample to another, at a glance and as an animation."""
        parts = torch.linspace(0, 1, FRAMES).tolist()
        run, images = self._on_the_way(parts, name, label, seed, first, second, *settings)
        still, moving = png(grid(images[:: (FRAMES - 1) // (STRIP - 1)], STRIP)), animation(images)
        file = f"{run.family}-{run.name}-{label}-{first:.0f}-to-{second:.0f}"
        return (
            figure(picture(still, "the way"), "The whole way", [], [saving(f"{file}.png", still)], wide=True),
            figure(picture(moving, "there and back", 1), "There and back", [], [saving(f"{file}.webp", moving)]),
        )

    def _on_the_way(
        self, parts: list[float], name: str, label: str, seed: float, first: float, second: float, *settings: Setting
    ) -> tuple[Run, Tensor]:
        run = chosen(self.runs, name)
        generator = run.generator(*settings)
        ends = noise_of(generator, seed, first), noise_of(generator, seed, second)
        noise = between(*ends, torch.tensor(parts), generator.noise_distribution)
        return run, generate(generator, one_label(run.data, label).expand(len(parts)), noise)

    def own_value(self, name: str, seed: float, sample: float, coordinate: float) -> tuple[int, int, float]:
        """The range of a number of the noise, and its value in a sample, to two decimals and within the range."""
        generator = chosen(self.runs, name).generator()
        low, high = RANGES[generator.noise_distribution]
        own = noise_of(generator, seed, sample).flatten()[coordinate_of(generator, coordinate)]
        return low, high, min(high, max(low, round(float(own), 2)))

    def move(
        self, value: float, name: str, label: str, seed: float, sample: float, coordinate: float, *settings: Setting
    ) -> str:
        """A sample with another value of one number of its noise."""
        run = chosen(self.runs, name)
        low, high = RANGES[run.generator(*settings).noise_distribution]
        check_number("The value", value, at_least=low, at_most=high)
        images = self._moved([value], run, label, seed, sample, coordinate, *settings)
        said = f"sample {sample:.0f} with coordinate {coordinate:.0f} at {value:.2f}"
        return figure(picture(png(images[0]), said, times=10), f"{label} by {run.family}", [said])

    def span(self, name: str, label: str, seed: float, sample: float, coordinate: float, *settings: Setting) -> str:
        """A sample over the whole range of one number of its noise, at a glance."""
        run = chosen(self.runs, name)
        generator = run.generator(*settings)
        low, high = RANGES[generator.noise_distribution]
        values = torch.linspace(low, high, STRIP).tolist()
        images = self._moved(values, run, label, seed, sample, coordinate, *settings)
        change = int((images.amax(0).int() - images.amin(0).int()).max()) / 255
        content, title = png(grid(images, STRIP)), f"Coordinate {coordinate:.0f} from {low} to {high}"
        said = [f"It is one of {math.prod(generator.noise_shape):,}, and changes no pixel by more than {change:.0%}."]
        links = [saving(f"{run.family}-{run.name}-{label}-coordinate-{coordinate:.0f}.png", content)]
        return figure(picture(content, title), title, said, links, wide=True)

    def _moved(
        self,
        values: list[float],
        run: Run,
        label: str,
        seed: float,
        sample: float,
        coordinate: float,
        *settings: Setting,
    ) -> Tensor:
        generator = run.generator(*settings)
        noise = noise_of(generator, seed, sample).flatten().repeat(len(values), 1)
        noise[:, coordinate_of(generator, coordinate)] = torch.tensor(values)
        labels = one_label(run.data, label).expand(len(values))
        return generate(generator, labels, noise.unflatten(1, generator.noise_shape))

    def epoch(self, name: str, number: float) -> str:
        """The grid that a training left after an epoch, or the last one where there are fewer."""
        run = chosen(self.runs, name)
        paths = grids(run)
        number = min(whole("grid", number, 1, 10**6), len(paths))
        said = [run.name, f"{paths[number - 1].stem}: {number} of {len(paths)}"]
        return figure(picture(read_png(paths[number - 1]), said[1], times=2), run.family, said)

    def training(self, name: str) -> str:
        """The grids of all epochs, or of some if there are many, as an animation."""
        run = chosen(self.runs, name)
        paths = grids(run)
        shown = paths[:: -(len(paths) // FILM + 1)][::-1]  # the last one is among them
        moving = film([read_png(path) for path in shown])
        return figure(
            picture(moving, "all epochs", times=2), "All epochs", [f"{len(paths)} grids, one after the other"]
        )

    def scores(self, names: list[str]) -> str:
        """The scores of the runs beside those of real images."""
        return score_tables(self._some(names))


def check_types(answer: Callable[..., Any], values: Sequence[Any]) -> None:
    """Raises UsageError if a value of a request has not the type of the answer's annotation."""
    signature = inspect.signature(answer, eval_str=True)
    for name, given in signature.bind(*values).arguments.items():
        types, said = KINDS[signature.parameters[name].annotation]
        for value in given if isinstance(given, tuple) else [given]:  # JSON has no tuple: these are the *settings
            if not isinstance(value, types):
                raise UsageError(f"{name.replace('_', ' ')} is {value!r:.60}: give {said}.")


def labels_of(data: ImageDataModule, text: str) -> list[int]:
    """The labels of what was typed; raises UsageError where there are none, too many, or none of this name."""
    text = text.strip()
    if not text:
        raise UsageError(f"Type what to draw: one or more of {', '.join(data.classes):.300}.")
    if len(text) > 400:
        raise UsageError(f"That is too long: type at most {LABELS} of {data.full_name}'s names.")
    try:
        labels = data.spelled(text)
    except UsageError as error:  # as the command line says it
        raise UsageError(str(error).removeprefix("data.labels is ")) from error
    if len(labels) > LABELS:
        raise UsageError(f"{text!r:.60} are {len(labels)} labels: type at most {LABELS}.")
    return labels


def one_label(data: ImageDataModule, text: str) -> Tensor:
    """The label of what was chosen: (1,) int64."""
    return torch.tensor(labels_of(data, text)[:1])


def noise_of(generator: ConditionalGenerator, seed: float, sample: float) -> Tensor:
    """The noise of one sample: (*noise_shape)."""
    return generator.draw_noise(whole("seed", seed, 0, 2**53), [whole("sample", sample, 0, 999_999)])[0]


def coordinate_of(generator: ConditionalGenerator, coordinate: float) -> int:
    return whole("coordinate", coordinate, 0, math.prod(generator.noise_shape) - 1)


def generate(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """(N,) labels and (N, *noise_shape) noise to (N, C, H, W) uint8; raises UsageError where it would take long."""
    if (evaluations := len(labels) * generator.nfe) > EVALUATIONS:
        raise UsageError(
            f"{evaluations:,} evaluations of the network take long: ask for fewer samples or steps, {EVALUATIONS:,} "
            "at most."
        )
    return generate_uint8(generator, labels, noise)


def nearest_training_images(run: Run, samples: Images) -> tuple[Tensor, Tensor]:
    """Of each sample the training image of its label whose pixels are nearest, black where there is none, and how far
    it is, as images in [0, 1]: (N, C, H, W) uint8 and (N,). Raises UsageError where they are not on the disk."""
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


def grids(run: Run) -> list[Path]:
    """The pictures that a training left after its epochs, the first one first; raises UsageError where it left none."""
    found = sorted((run.folder / "samples").glob("epoch=*.png"), key=lambda path: (len(path.name), path.name))
    if not found:
        raise UsageError(f"{run.folder}/samples has no grids of epochs: `condgen fit` writes them.")
    return found
