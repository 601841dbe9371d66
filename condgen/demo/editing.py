"""Edits an image: shows its inversion, the same noise with all labels, and the inpainting of marked pixels."""

from html import escape
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from condgen.data.loader import Images
from condgen.demo.canvas import decode, encode, is_edited
from condgen.demo.figures import alert, figure
from condgen.demo.images import generate, local_images
from condgen.demo.requests import MAX_SAMPLE, EditRequest
from condgen.demo.runs import Run, find_run_and_label
from condgen.demo.views import label_dropdown
from condgen.errors import UsageError, check_number
from condgen.evaluation.inversion import image_and_other_labels, invert_images
from condgen.files.images import grid, png, to_bytes
from condgen.generators import Diffusion
from condgen.sampling.inpainting import inpaint


class Editor:
    """Event handlers for the Edit tab, like those in :class:`condgen.demo.views.Views`.

    Args:
        runs: The available runs, keyed by name.
    """

    def __init__(self, runs: dict[str, Run]) -> None:
        self.runs = runs

    def open(self, request: EditRequest) -> list[Any]:
        """Shows the first image, and keeps it when the user returns to the tab."""
        return [gr.skip()] * 4 if request.drawing else self.edit(request)

    def edit(self, request: EditRequest) -> list[Any]:
        """Shows a new image to edit.

        Returns:
            The label dropdown, the image for the canvas, its inversion, and its inpainting.
        """
        run, label = find_run_and_label(self.runs, request.run, request.label)
        image, label = start_image(run, label, request)
        changed = {"drawing": encode(image), "label": run.data.classes[label]}
        edited = self.edited(request.model_copy(update=changed))
        return [label_dropdown(run, label), changed["drawing"], *edited]

    def keep_or_edit(self, request: EditRequest) -> list[Any]:
        """Keeps an image that the user has edited after the run or seed has changed, if it has the right size."""
        run, label = find_run_and_label(self.runs, request.run, request.label)
        if not is_edited(request.drawing, run.generator().image_shape):
            return self.edit(request)
        return [label_dropdown(run, label), gr.skip(), *self.edited(request)]

    def relabel(self, request: EditRequest) -> list[Any]:
        """Shows a sample of the new label, unless the user has edited the image. Keeps any other image."""
        return self.keep_or_edit(request) if request.start == "Sample" else [gr.skip()] * 2 + [*self.edited(request)]

    def renumber(self, request: EditRequest) -> list[Any]:
        """Shows the sample or test image with the new number."""
        return [gr.skip()] * 4 if request.start == "Nothing" else self.edit(request)

    def edited(self, request: EditRequest) -> tuple[str, str]:
        """Shows the inversion and the inpainting of the image on the canvas."""
        run, label = find_run_and_label(self.runs, request.run, request.label)
        generator = run.generator()
        image, known = decode(request.drawing or "", generator.image_shape)
        return self._inversion(run, label, image), self._inpainting(run, label, image, known, request.seed)

    def _inversion(self, run: Run, label: int, image: Tensor) -> str:
        generator, images = run.generator(), Images(image[None], torch.tensor([label]))
        try:
            found, errors = image_and_other_labels(generator, images, invert_images(generator, images))
        except UsageError as problem:
            return alert(str(problem))
        content, name = png(grid(found[0], min(12, found.shape[1]))), f"{run.family}-{run.name}-inversion.png"
        line = f"your picture · its reconstruction (mean squared error {errors[0]:.4f}) · its noise with every label"
        return figure(content, "Inversion", [line], {name: content}, wide=True)

    def _inpainting(self, run: Run, label: int, image: Tensor, known: Tensor, seed: int) -> str:
        generator = run.generator()
        if not isinstance(generator, Diffusion):
            return f"<p>{escape(run.family)} cannot inpaint. Select a diffusion model.</p>"
        if known.all():
            return "<p>To generate a part of the picture again, paint over it with the brush Inpaint.</p>"
        noise, labels = generator.sample_noise(seed, range(10)), torch.full((10,), label)
        images = to_bytes(inpaint(generator, image.expand_as(noise) / 255, known, labels, noise))
        content, name = png(grid(images, len(images))), f"{run.family}-{run.name}-inpainting.png"
        line = f"ten ways to fill the marked pixels of a {run.data.classes[label]}"
        return figure(content, "Inpainting", [line], {name: content}, wide=True)


def start_image(run: Run, label: int, request: EditRequest) -> tuple[Tensor, int]:
    """Returns the image to edit (uint8, of shape (C, H, W)) and its label.

    Raises:
        UsageError: If a test image is requested, but there is none with this number or the dataset is not available.
    """
    generator = run.generator()
    if request.start == "Nothing":
        return torch.zeros(generator.image_shape, dtype=torch.uint8), label
    if request.start == "Sample":
        check_number("number", request.number, at_least=0, at_most=MAX_SAMPLE)
        noise = generator.sample_noise(request.seed, [request.number])
        return generate(generator, torch.tensor([label]), noise)[0], label
    test_images = local_images(run, "test")
    check_number("number", request.number, at_least=0, at_most=len(test_images) - 1)
    return test_images.images[request.number], int(test_images.labels[request.number])
