"""Computes what is shown in each tab of the page."""

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
from condgen.demo.figures import alert, figure, read_grid, webp
from condgen.demo.images import film, flat_noise, generate, interpolate, mixed, move, nearest_training_images
from condgen.demo.requests import (
    MAX_LABELS,
    MAX_MIXED,
    EpochsRequest,
    FilmRequest,
    MixRequest,
    MorphRequest,
    NoiseRequest,
    SamplesRequest,
    ScoresRequest,
)
from condgen.demo.runs import Run, find_run, find_run_and_label
from condgen.demo.score_table import score_tables
from condgen.errors import UsageError
from condgen.evaluation.scores_file import main_scores
from condgen.files.images import grid, png
from condgen.generators import ConditionalGenerator
from condgen.noise import Distribution

# slider ranges for a single noise coordinate
RANGES: dict[Distribution, tuple[int, int]] = {"uniform": (0, 1), "normal": (-3, 3)}
WEIGHTS = [f"weight_{number}" for number in range(1, 1 + MAX_MIXED)]
AMBER = torch.tensor([255, 196, 110]).view(3, 1, 1)


class Views:
    """Event handlers for the page. Each one takes a request and returns the new values of the output components.

    All of them raise a UsageError if the request is invalid, e.g. because a run or label doesn't exist.

    Args:
        runs: The available runs, keyed by name.
    """

    def __init__(self, runs: dict[str, Run]) -> None:
        self.runs = runs

    def samples(self, request: SamplesRequest) -> str:
        """Shows each run's samples, which are identical to those from ``condgen predict``."""
        figures = []
        for run in [find_run(self.runs, name) for name in request.runs]:
            try:
                figures.append(self._samples(run, request))
            except UsageError as problem:  # the other runs may have these labels
                figures.append(alert(str(problem)))
        return "".join(dict.fromkeys(figures))

    def _samples(self, run: Run, request: SamplesRequest) -> str:
        columns = request.samples_per_label
        labels = torch.tensor(parse_labels(run.data, request.labels)).repeat_interleave(columns)
        generator = run.generator(guidance=request.guidance, sampling_steps=request.sampling_steps)
        noise = generator.sample_noise(request.seed, range(len(labels)))
        samples = Images(generate(generator, labels, noise), labels)
        shown, lines = samples.images, caption(run, generator)
        if request.nearest:
            references, distances = nearest_training_images(run, samples)
            pairs = torch.stack((shown.expand(-1, 3, -1, -1), references.expand(-1, 3, -1, -1) * AMBER // 255))
            shown = pairs.byte().unflatten(1, (-1, columns)).transpose(0, 1).flatten(0, 2)  # alternating rows
            lines.append(f"distance {distances.mean():.1f}, minimum {distances.min():.1f}")
        content, name = png(grid(shown, columns)), f"{run.family}-{run.name}-seed-{request.seed}"
        return figure(content, run.family, lines, {f"{name}.png": content, f"{name}.npz": npz(samples)})

    def morph(self, request: MorphRequest) -> list[Any]:
        """Shows the interpolation between two samples.

        Returns:
            The label dropdown, the image at the current slider position, and the full interpolation as both a strip and
            an animation.
        """
        run, label = find_run_and_label(self.runs, request.run, request.label)
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
        """Shows the interpolated image at the current slider position."""
        run, label = find_run_and_label(self.runs, request.run, request.label)
        image = interpolate(run, label, request, [request.part])[0]
        line = f"{request.part:.0%} of the way from sample {request.from_sample} to sample {request.to_sample}"
        return figure(png(image), f"{run.data.classes[label]} by {run.family}", [line], times=10)

    def noise(self, request: NoiseRequest) -> list[Any]:
        """Shows what happens to a sample when a single coordinate of its noise changes.

        Returns:
            The label dropdown, the slider set to the original value of the coordinate, the image, and a strip of images
            that covers the full slider range.
        """
        run, label = find_run_and_label(self.runs, request.run, request.label)
        low, high = RANGES[run.generator().noise_distribution]
        own = float(flat_noise(run.generator(), request)[request.coordinate])
        own = min(high, max(low, round(own, 2)))  # clamp to the slider range and round to its step size
        images = self.moved_and_range(request.model_copy(update={"value": own}))
        return [label_dropdown(run, label), gr.Slider(low, high, own), *images]

    def moved_and_range(self, request: NoiseRequest) -> tuple[str, str]:
        """Shows the image at the current slider value, along with a strip for the full slider range."""
        run, label = find_run_and_label(self.runs, request.run, request.label)
        generator = run.generator()
        low, high = RANGES[generator.noise_distribution]
        images = move(run, label, request, torch.linspace(low, high, 11).tolist())
        change = int((images.amax(0).int() - images.amin(0).int()).max()) / 255
        line = f"One of {math.prod(generator.noise_shape):,} coordinates. It changes pixels by up to {change:.0%}."
        name = f"{run.family}-{run.name}-{run.data.classes[label]}-coordinate-{request.coordinate}.png"
        strip, title = png(grid(images, 11)), f"Coordinate {request.coordinate} from {low} to {high}"
        return self.moved(request), figure(strip, title, [line], {name: strip}, wide=True)

    def moved(self, request: NoiseRequest) -> str:
        """Shows the image at the current slider value."""
        run, label = find_run_and_label(self.runs, request.run, request.label)
        image = move(run, label, request, [request.value])[0]
        line = f"sample {request.sample} with coordinate {request.coordinate} at {request.value:.2f}"
        return figure(png(image), f"{run.data.classes[label]} by {run.family}", [line], times=10)

    def mix(self, request: MixRequest) -> list[Any]:
        """Adapts the sliders to the selected labels, and keeps their positions.

        Returns:
            The label dropdown, one slider per label, the samples of the mix, and the samples of the labels alone.
        """
        run, labels = self._run_and_mixed_labels(request)
        classes, names = list(run.data.classes), [run.data.classes[label] for label in labels]
        # the dropdown keeps its value if possible, because the user may select the next label already
        dropdown = gr.Dropdown(classes) if names == request.labels else gr.Dropdown(classes, value=names)
        sliders = [gr.Slider(label=f"Part of {name}", visible=True) for name in names]
        hidden = [gr.Slider(visible=False)] * (MAX_MIXED - len(names))
        images = self.mixed_and_alone(request.model_copy(update={"labels": names}))
        return [dropdown, *sliders, *hidden, *images]

    def mixed_and_alone(self, request: MixRequest) -> tuple[str, str]:
        """Shows the samples of the mix, along with those of each label alone."""
        run, labels = self._run_and_mixed_labels(request)
        alone = torch.cat([mixed(run, [label], [1.0], request) for label in labels])
        return self.mixed(request), figure(png(grid(alone, request.samples)), "Each label alone", times=4)

    def mixed(self, request: MixRequest) -> str:
        """Shows the samples of the mix at the current slider positions."""
        run, labels = self._run_and_mixed_labels(request)
        total = sum(request.weights)
        if not total:
            return alert("All parts of the mix are 0: move a slider to the right.")
        weights = [weight / total for weight in request.weights]
        images = mixed(run, labels, weights, request)
        parts = [f"{weight:.0%} {run.data.classes[label]}" for label, weight in zip(labels, weights, strict=True)]
        name = f"{run.family}-{run.name}-mix.png"
        content = png(grid(images, request.samples))
        return figure(content, f"Mixed by {run.family}", [", ".join(parts)], {name: content}, times=4)

    def film(self, request: FilmRequest) -> list[Any]:
        """Films how samples emerge from their noise.

        Returns:
            The label dropdown, the slider set to the last frame, the last frame, and the whole film as an animation.
        """
        run, label = find_run_and_label(self.runs, request.run, request.label)
        frames = film(run, label, request)
        shown = webp([grid(frame, request.samples) for frame in frames], [80] * (len(frames) - 1) + [2000])
        name = f"{run.family}-{run.name}-{run.data.classes[label]}-film.webp"
        return [
            label_dropdown(run, label),
            gr.Slider(1, len(frames), len(frames)),
            self._frame(run, label, request, frames[-1], "the sample"),
            figure(shown, "From noise to image", saved={name: shown}, times=2),
        ]

    def frame(self, request: FilmRequest) -> str:
        """Shows the frame selected with the slider."""
        run, label = find_run_and_label(self.runs, request.run, request.label)
        frames = film(run, label, request)
        number = min(request.frame, len(frames))
        return self._frame(run, label, request, frames[number - 1], f"frame {number} of {len(frames)}")

    def _frame(self, run: Run, label: int, request: FilmRequest, frame: Tensor, text: str) -> str:
        rows = frame.shape[2] // run.generator().image_shape[1]
        lines = [text, "above: the noisy image; below: the prediction" if rows > 1 else "interpolated noise"]
        return figure(png(grid(frame, request.samples)), f"{run.data.classes[label]} by {run.family}", lines, times=4)

    def epochs(self, request: EpochsRequest) -> list[Any]:
        """Shows the grid of the last epoch, along with an animation of up to 40 epochs and a slider to choose one."""
        paths = sample_grids(find_run(self.runs, request.run))
        shown = paths[:: -(len(paths) // 40 + 1)][::-1]  # every n-th grid, including the last one
        film = webp([read_grid(path) for path in shown], [500] * (len(shown) - 1) + [2000])
        return [
            gr.Slider(1, max(2, len(paths)), len(paths)),
            self.epoch(request.model_copy(update={"grid": len(paths)})),
            figure(film, "All epochs", [f"{len(paths)} grids, one after the other"], times=2),
        ]

    def epoch(self, request: EpochsRequest) -> str:
        """Shows the grid selected with the slider. Uses the last one if there aren't that many."""
        run = find_run(self.runs, request.run)
        paths = sample_grids(run)
        number = min(request.grid, len(paths))
        lines = [run.name, f"{paths[number - 1].stem}: {number} of {len(paths)}"]
        return figure(png(read_grid(paths[number - 1])), run.family, lines, times=2)

    def scores(self, request: ScoresRequest) -> str:
        """Compares the scores of the runs with each other and with real images."""
        return score_tables([find_run(self.runs, name) for name in request.runs])

    def _run_and_mixed_labels(self, request: MixRequest) -> tuple[Run, list[int]]:
        """Looks up the requested run and labels. Uses the first and last label if the run has none of them."""
        run = find_run(self.runs, request.run)
        classes = list(run.data.classes)
        labels = [classes.index(name) for name in request.labels if name in classes]
        return run, labels or sorted({0, len(classes) - 1})


def label_dropdown(run: Run, label: int) -> gr.Dropdown:
    return gr.Dropdown(list(run.data.classes), value=run.data.classes[label])


def parse_labels(data: ImageDataModule, text: str) -> list[int]:
    """Parses the text from the label box. Raises a UsageError if it is empty, too long, or has unknown labels."""
    if not text.strip():
        raise UsageError(f"Type at least one label: {', '.join(data.classes):.300}.")
    labels = data.parse_labels(text)
    if len(labels) > MAX_LABELS:
        raise UsageError(f"{text!r:.60} has {len(labels)} labels: type at most {MAX_LABELS}.")
    return labels


def caption(run: Run, generator: ConditionalGenerator) -> list[str]:
    """Returns a few lines about the run, including its scores if they were measured with the same sampling settings."""
    settings = {n: generator.hparams[n] for n in ("guidance", "sampling_steps") if n in run.hyperparameters}
    lines = [f"{run.name} · {run.data.full_name}"]
    if settings:
        lines.append(" · ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items()))
    try:
        scores = run.scores
    except UsageError:
        return lines
    if all(scores.get("settings", {}).get(name) == value for name, value in settings.items()):
        names = reversed(main_scores(scores["scores"]))
        lines.append(" · ".join(f"{name} {scores['scores'][name]['value']:.3f}" for name in names))
    return lines


def npz(samples: Images) -> bytes:
    """Encodes the samples as an npz file, using the same format as ``condgen predict --predictions.format npz``."""
    content, indices = io.BytesIO(), np.arange(len(samples))
    np.savez_compressed(content, images=samples.images.numpy(), labels=samples.labels.numpy(), indices=indices)
    return content.getvalue()


def sample_grids(run: Run) -> list[Path]:
    """Lists the sample grids of a run, sorted by epoch. Raises a UsageError if there are none."""
    paths = sorted((run.folder / "samples").glob("epoch=*.png"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise UsageError(f"{run.folder}/samples contains no sample grids. `condgen fit` writes them.")
    return paths
