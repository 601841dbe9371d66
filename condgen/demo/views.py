"""The content of the page's tabs for a request."""

import io
import math
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from torch import Tensor

from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.demo.figures import figure, read_grid, webp
from condgen.demo.requests import MAX_LABELS, EpochsRequest, MorphRequest, NoiseRequest, SamplesRequest, ScoresRequest
from condgen.demo.runs import Run, find_run
from condgen.demo.score_table import score_tables
from condgen.errors import UsageError, check_number
from condgen.files.images import grid, png
from condgen.generators import ConditionalGenerator
from condgen.metrics.distances import nearest
from condgen.noise import Distribution, slerp
from condgen.sampling.generate import generate_uint8

MAX_NFE = 10_000  # evaluations of a network for one run of a request
RANGES: dict[Distribution, tuple[int, int]] = {"uniform": (0, 1), "normal": (-3, 3)}  # of a coordinate of the noise
AMBER = torch.tensor([255, 196, 110]).view(3, 1, 1)


class Views:
    """A method for each update of the page: values for its components, most of them HTML.

    All raise UsageError if a request is wrong in a way that its type does not exclude.
    """

    def __init__(self, runs: dict[str, Run]) -> None:
        self.runs = runs

    def samples(self, request: SamplesRequest) -> str:
        """Returns the samples that ``condgen predict`` generates, of each run."""
        figures, columns = [], request.samples_per_label
        for run in [find_run(self.runs, name) for name in request.runs]:
            labels = torch.tensor(parse_labels(run.data, request.labels)).repeat_interleave(columns)
            generator = run.generator(guidance=request.guidance, sampling_steps=request.sampling_steps)
            noise = generator.draw_noise(request.seed, range(len(labels)))
            samples = Images(generate(generator, labels, noise), labels)
            shown, lines = samples.images, caption(run, generator)
            if request.nearest:
                references, distances = nearest_training_images(run, samples)
                pairs = torch.stack((shown.expand(-1, 3, -1, -1), references.expand(-1, 3, -1, -1) * AMBER // 255))
                shown = pairs.byte().unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2)  # rows alternate
                lines.append(f"distance {distances.mean():.1f}, minimum {distances.min():.1f}")
            content, name = png(grid(shown, columns)), f"{run.family}-{run.name}-seed-{request.seed}"
            figures.append(figure(content, run.family, lines, {f"{name}.png": content, f"{name}.npz": npz(samples)}))
        return "".join(figures)

    def morph(self, request: MorphRequest) -> list[Any]:
        """Returns the labels of the run, the image at the slider, and all images between two samples: a strip, an
        animation."""
        run, label = self._run_and_label(request)
        images = interpolate(run, label, request, torch.linspace(0, 1, 21).tolist())
        strip = png(grid(images[::2], 11))
        animation = webp([*images, *images[1:-1].flip(0)], milliseconds=83, times=10)
        name = f"{run.family}-{run.name}-{run.data.classes[label]}-{request.from_sample}-to-{request.to_sample}"
        return [
            label_dropdown(run, label),
            self.interpolated(request),
            figure(strip, "The whole way", saved={f"{name}.png": strip}, wide=True),
            figure(animation, "There and back", saved={f"{name}.webp": animation}, times=1),
        ]

    def interpolated(self, request: MorphRequest) -> str:
        """Returns the image at the slider."""
        run, label = self._run_and_label(request)
        image = interpolate(run, label, request, [request.part])[0]
        line = f"{request.part:.0%} of the way from sample {request.from_sample} to sample {request.to_sample}"
        return figure(png(image), f"{run.data.classes[label]} by {run.family}", [line], times=10)

    def noise(self, request: NoiseRequest) -> list[Any]:
        """Returns the labels of the run, the slider at the sample's own value, and the strip and the image for this
        value."""
        run, label = self._run_and_label(request)
        low, high = RANGES[run.generator().noise_distribution]
        own = float(flat_noise(run.generator(), request)[request.coordinate])
        own = min(high, max(low, round(own, 2)))  # as the slider can represent it
        images = self.moved_and_range(request.model_copy(update={"value": own}))
        return [label_dropdown(run, label), gr.Slider(low, high, own), *images]

    def moved_and_range(self, request: NoiseRequest) -> tuple[str, str]:
        """Returns the image at the slider, and a strip of the slider's range."""
        run, label = self._run_and_label(request)
        generator = run.generator()
        low, high = RANGES[generator.noise_distribution]
        images = move(run, label, request, torch.linspace(low, high, 11).tolist())
        change = int((images.amax(0).int() - images.amin(0).int()).max()) / 255
        line = f"It is one of {math.prod(generator.noise_shape):,}, and changes no pixel by more than {change:.0%}."
        name = f"{run.family}-{run.name}-{run.data.classes[label]}-coordinate-{request.coordinate}.png"
        strip, title = png(grid(images, 11)), f"Coordinate {request.coordinate} from {low} to {high}"
        return self.moved(request), figure(strip, title, [line], {name: strip}, wide=True)

    def moved(self, request: NoiseRequest) -> str:
        """Returns the sample with the slider's value of one coordinate of its noise."""
        run, label = self._run_and_label(request)
        image = move(run, label, request, [request.value])[0]
        line = f"sample {request.sample} with coordinate {request.coordinate} at {request.value:.2f}"
        return figure(png(image), f"{run.data.classes[label]} by {run.family}", [line], times=10)

    def epochs(self, request: EpochsRequest) -> list[Any]:
        """Returns the slider at the last sample grid of a training, this grid, and an animation of at most 40 grids."""
        paths = sample_grids(find_run(self.runs, request.run))
        shown = paths[:: -(len(paths) // 40 + 1)][::-1]  # including the last one
        film = webp([read_grid(path) for path in shown], [500] * (len(shown) - 1) + [2000])
        return [
            gr.Slider(1, max(2, len(paths)), len(paths)),
            self.epoch(request.model_copy(update={"grid": len(paths)})),
            figure(film, "All epochs", [f"{len(paths)} grids, one after the other"], times=2),
        ]

    def epoch(self, request: EpochsRequest) -> str:
        """Returns the sample grid at the slider, or the last one if there are fewer."""
        run = find_run(self.runs, request.run)
        paths = sample_grids(run)
        number = min(request.grid, len(paths))
        lines = [run.name, f"{paths[number - 1].stem}: {number} of {len(paths)}"]
        return figure(png(read_grid(paths[number - 1])), run.family, lines, times=2)

    def scores(self, request: ScoresRequest) -> str:
        """Returns the scores of runs beside those of real images."""
        return score_tables([find_run(self.runs, name) for name in request.runs])

    def _run_and_label(self, request: MorphRequest | NoiseRequest) -> tuple[Run, int]:
        """Returns the first label if the run has none of this name: the label may belong to the run that was chosen
        before."""
        run = find_run(self.runs, request.run)
        return run, run.data.classes.index(request.label) if request.label in run.data.classes else 0


def interpolate(run: Run, label: int, request: MorphRequest, parts: list[float]) -> Tensor:
    """Returns the images at these parts of the way from one sample to another: (N, C, H, W) uint8."""
    generator = run.generator(guidance=request.guidance, sampling_steps=request.sampling_steps)
    start, end = generator.draw_noise(request.seed, [request.from_sample, request.to_sample])
    noise = slerp(start, end, torch.tensor(parts), generator.noise_distribution)
    return generate(generator, torch.full((len(parts),), label), noise)


def move(run: Run, label: int, request: NoiseRequest, values: list[float]) -> Tensor:
    """Returns a sample with these values of one coordinate of its noise: (N, C, H, W) uint8."""
    generator = run.generator(guidance=request.guidance, sampling_steps=request.sampling_steps)
    noise = flat_noise(generator, request).repeat(len(values), 1)
    noise[:, request.coordinate] = torch.tensor(values)
    return generate(generator, torch.full((len(values),), label), noise.unflatten(1, generator.noise_shape))


def flat_noise(generator: ConditionalGenerator, request: NoiseRequest) -> Tensor:
    """Returns the noise of a sample as (D,); raises UsageError if it has no such coordinate."""
    check_number("coordinate", request.coordinate, at_least=0, at_most=math.prod(generator.noise_shape) - 1)
    return generator.draw_noise(request.seed, [request.sample]).flatten()


def generate(generator: ConditionalGenerator, labels: Tensor, noise: Tensor) -> Tensor:
    """(N,) labels and (N, *noise_shape) noise to (N, C, H, W) uint8; raises UsageError if it would take long."""
    if (evaluations := len(labels) * generator.nfe) > MAX_NFE:
        raise UsageError(
            f"{evaluations:,} evaluations of the network would take long: choose fewer samples or sampling steps, for "
            f"at most {MAX_NFE:,}."
        )
    return generate_uint8(generator, labels, noise)


def label_dropdown(run: Run, label: int) -> gr.Dropdown:
    return gr.Dropdown(list(run.data.classes), value=run.data.classes[label])


def parse_labels(data: ImageDataModule, text: str) -> list[int]:
    """Returns the labels of typed text; raises UsageError if there are none, too many, or unknown ones."""
    if not text.strip():
        raise UsageError(f"Type at least one label: {', '.join(data.classes):.300}.")
    labels = data.parse_labels(text)
    if len(labels) > MAX_LABELS:
        raise UsageError(f"{text!r:.60} has {len(labels)} labels: type at most {MAX_LABELS}.")
    return labels


def nearest_training_images(run: Run, samples: Images) -> tuple[Tensor, Tensor]:
    """For each sample, the training image of its label with the nearest pixels, and the distance.

    Returns:
        (N, C, H, W) uint8, black if there is none; (N,) distances of images in [0, 1], infinite if there is none.

    Raises:
        UsageError: the training images are not on this disk.
    """
    try:
        run.data.setup("fit")  # without prepare_data(), which downloads
    except UsageError as error:
        raise UsageError(f"The training images of {run.name} are not on this disk ({error})") from error
    training = run.data.train_images
    found, distances = torch.zeros_like(samples.images), torch.full((len(samples),), math.inf)
    for label in samples.labels.unique():
        rows, references = samples.labels == label, training.images[training.labels == label]
        if len(references):
            label_distances, indices = nearest(samples.images[rows].flatten(1), references.flatten(1))
            found[rows], distances[rows] = references[indices], label_distances.float() / 255
    return found, distances


def caption(run: Run, generator: ConditionalGenerator) -> list[str]:
    """Returns the run, its sampling settings, and its scores if they were measured with these settings."""
    settings = {n: generator.hparams[n] for n in ("guidance", "sampling_steps") if n in run.hyperparameters}
    lines = [f"{run.name} · {run.data.full_name}"]
    if settings:
        lines.append(" · ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items()))
    try:
        scores = run.scores
    except UsageError:
        return lines
    if all(scores.get("settings", {}).get(name) == value for name, value in settings.items()):
        lines.append(" · ".join(f"{name} {scores['scores'][name]['value']:.3f}" for name in ("accuracy", "coverage")))
    return lines


def npz(samples: Images) -> bytes:
    """Returns the arrays of ``condgen predict --predictions.format npz``: images, labels, indices."""
    content, indices = io.BytesIO(), np.arange(len(samples))
    np.savez_compressed(content, images=samples.images.numpy(), labels=samples.labels.numpy(), indices=indices)
    return content.getvalue()


def sample_grids(run: Run) -> list[Path]:
    """Returns the sample grids of a training, first epoch first; raises UsageError if there are none."""
    paths = sorted((run.folder / "samples").glob("epoch=*.png"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise UsageError(f"{run.folder}/samples has no grids of epochs: `condgen fit` writes them.")
    return paths
