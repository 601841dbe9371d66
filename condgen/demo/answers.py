"""What the page answers to a request of a browser, or of a program: HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from condgen.demo import drawing
from condgen.demo.figures import animation, caption, figure, npz, picture, saving, score_tables
from condgen.demo.shown import Run, chosen, whole
from condgen.errors import UsageError
from condgen.pictures import grid, png

AT_ONCE = 8  # runs
STRIP, FRAMES = 11, 21  # images of a way, and of half an animation
TINT = torch.tensor([255, 196, 110]).view(3, 1, 1)  # of training images

Setting = str  # guidance, then sampling steps, as typed; nothing is as trained


class Answers:
    """A method for each kind of request. All raise UsageError with what is wrong with one.

    Args:
        runs: that can be asked for, by their names.
    """

    def __init__(self, runs: dict[str, Run]) -> None:
        self.runs = runs

    def _some(self, names: Sequence[str] | None) -> list[Run]:
        if not isinstance(names, list) or not 1 <= len(names) <= AT_ONCE:
            raise UsageError(f"{len(names) if isinstance(names, list) else 0} runs are chosen: choose 1 to {AT_ONCE}.")
        return [chosen(self.runs, name) for name in names]

    def side_by_side(
        self, names: list[str], text: str, each: float, seed: float, near: bool = False, *settings: Setting
    ) -> str:
        """What each of the runs draws, a row a label; where ``near``, the nearest training images below each row."""
        figures = []
        for run in self._some(names):
            generator = run.generator(*settings)
            samples = drawing.draw(run, text, each, seed, generator)
            said, shown = caption(run, generator), samples.images
            if near:
                found, far = drawing.nearest_training_images(run, samples)
                shown = _below(shown, found, int(each))
                said.append(f"distance {far.mean():.1f}, the least {far.min():.1f}")
            content = png(grid(shown, int(each)))
            file = f"{run.family}-{run.name}-seed-{int(seed)}"
            links = [saving(f"{file}.png", content), saving(f"{file}.npz", npz(samples))]
            figures.append(figure(picture(content, f"{text} by {run.family}"), run.family, said, links))
        return "".join(figures)

    def morph(
        self, part: float, name: str, label: str, seed: float, first: float, second: float, *settings: Setting
    ) -> str:
        """A sample on the way from one to another."""
        run = chosen(self.runs, name)
        image = drawing.morph(run, label, seed, first, second, [part], run.generator(*settings))[0]
        said = f"{part:.0%} of the way from sample {first:.0f} to sample {second:.0f}"
        return figure(picture(png(image), said, times=10), f"{label} by {run.family}", [said])

    def way(
        self, name: str, label: str, seed: float, first: float, second: float, *settings: Setting
    ) -> tuple[str, str]:
        """The whole way from one sample to another, at a glance and as an animation."""
        run = chosen(self.runs, name)
        parts = torch.linspace(0, 1, FRAMES).tolist()
        images = drawing.morph(run, label, seed, first, second, parts, run.generator(*settings))
        still, moving = png(grid(images[:: (FRAMES - 1) // (STRIP - 1)], STRIP)), animation(images)
        file = f"{run.family}-{run.name}-{label}-{first:.0f}-to-{second:.0f}"
        return (
            figure(picture(still, "the way"), "The whole way", [], [saving(f"{file}.png", still)], wide=True),
            figure(picture(moving, "there and back", 1), "There and back", [], [saving(f"{file}.webp", moving)]),
        )

    def own_value(self, name: str, seed: float, sample: float, coordinate: float) -> tuple[float, float, float]:
        """The range of a coordinate, and the value that it has in a sample's noise, as far as it is in the range
        and as a slider has it."""
        generator = chosen(self.runs, name).generator()
        low, high = drawing.RANGES[generator.noise_distribution]
        own = drawing.own_value(seed, sample, coordinate, generator)
        return low, high, min(high, max(low, round(own, 2)))

    def move(
        self, value: float, name: str, label: str, seed: float, sample: float, coordinate: float, *settings: Setting
    ) -> str:
        """A sample with another value of one coordinate of its noise."""
        run = chosen(self.runs, name)
        image = drawing.move(run, label, seed, sample, coordinate, [value], run.generator(*settings))[0]
        said = f"sample {sample:.0f} with coordinate {coordinate:.0f} at {value:.2f}"
        return figure(picture(png(image), said, times=10), f"{label} by {run.family}", [said])

    def span(self, name: str, label: str, seed: float, sample: float, coordinate: float, *settings: Setting) -> str:
        """A sample over the whole range of one coordinate, at a glance."""
        run = chosen(self.runs, name)
        generator = run.generator(*settings)
        low, high = drawing.RANGES[generator.noise_distribution]
        images = drawing.move(
            run, label, seed, sample, coordinate, torch.linspace(low, high, STRIP).tolist(), generator
        )
        change = (images.amax(0).float() - images.amin(0).float()).max() / 255
        content, title = png(grid(images, STRIP)), f"Coordinate {coordinate:.0f} from {low:.0f} to {high:.0f}"
        said = [f"It is one of {math.prod(generator.noise_shape):,}, and changes no pixel by more than {change:.0%}."]
        links = [saving(f"{run.family}-{run.name}-{label}-coordinate-{coordinate:.0f}.png", content)]
        return figure(picture(content, title), title, said, links, wide=True)

    def epoch(self, name: str, number: float) -> str:
        """The grid that a training left after an epoch."""
        run = chosen(self.runs, name)
        grids = drawing.epochs(run)
        number = min(whole("grid", number, 1, 10**6), len(grids))  # of another run there may be more
        path = grids[number - 1]
        said = [run.name, f"{path.stem}: {number} of {len(grids)}"]
        return figure(picture(path.read_bytes(), said[1], times=2), run.family, said)

    def scores(self, names: list[str]) -> str:
        """The scores of the runs beside those of real images."""
        return score_tables(self._some(names))


def _below(samples: Tensor, found: Tensor, each: int) -> Tensor:
    """Rows of ``each`` samples (N, C, H, W) uint8, below each row what was found, in amber: (2N, 3, H, W)."""
    tinted = (found.expand(-1, 3, -1, -1) * TINT // 255).byte()
    rows = torch.stack((samples.expand(-1, 3, -1, -1), tinted)).unflatten(1, (-1, each))  # (2, labels, each, 3, H, W)
    return rows.transpose(0, 1).flatten(0, 2)
