"""The ``condgen invert`` command and the reconstruction error: can a generator reproduce an image it has never seen?"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condgen.checkpoints.build import data_of, generator_of
from condgen.checkpoints.find import find_checkpoint, output_directory
from condgen.checkpoints.read import read_checkpoint
from condgen.data.datamodule import ImageDataModule
from condgen.data.loader import Images
from condgen.errors import UsageError, check_number
from condgen.evaluation.figures import check_png
from condgen.evaluation.sample_files import read_pictures
from condgen.evaluation.scores import all_cores, first_of_each_label, rounded, rows_of, samples_per_label
from condgen.files.atomic import say_replacing
from condgen.files.images import grid, write_png
from condgen.generators import ConditionalGenerator, Diffusion
from condgen.nn.inversion import squared_error
from condgen.sampling.generate import generate_uint8

MAX_ROWS = 100  # images to invert; any others are ignored
SCORED = 30  # test images for the reconstruction error, so that it takes seconds on a CPU


def invert_images(generator: ConditionalGenerator, images: Images, steps: int | None = None) -> Tensor:
    """Finds the noise of images, see ``generator.invert``. Returns a tensor of shape (N, *noise_shape) on the CPU."""
    real = images.images.float() / 255
    return generator.invert(real.to(generator.device), images.labels.to(generator.device), steps).cpu()


def reconstruct_from_noise(generator: ConditionalGenerator, images: Images, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Generates images again from their noise.

    Returns the reconstructions as uint8 of shape (N, C, H, W), and the mean squared error per pixel of each image, of
    shape (N,). Both are on the CPU.
    """
    found = generate_uint8(generator, images.labels, noise)
    return found, squared_error(found.double() / 255, (images.images.float() / 255).double())


def image_and_other_labels(generator: ConditionalGenerator, images: Images, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Generates images from the noise of the given images with every label.

    Returns the image, its reconstruction, and one image per label as uint8 of shape (N, 2 + num_classes, C, H, W), and
    the mean squared errors of the reconstructions of shape (N,).
    """
    found, errors = reconstruct_from_noise(generator, images, noise)
    classes = generator.num_classes
    every_label = torch.arange(classes).repeat(len(noise))
    others = generate_uint8(generator, every_label, noise.repeat_interleave(classes, 0)).unflatten(0, (-1, classes))
    return torch.cat((images.images[:, None], found[:, None], others), dim=1), errors


def reconstruction_score(generator: ConditionalGenerator, data: ImageDataModule) -> dict[str, Any]:
    """Computes the ``reconstruction_error`` for ``scores.json``, using the first test images.

    This is the mean squared error per pixel in [0, 1]. It is None if the images could not be inverted. Real images have
    no reference value. Compare with the DNN, which can only generate the average image of a label.
    """
    score: dict[str, Any] = dict.fromkeys(("value", "uncertainty", "real", "real_uncertainty"))
    images = rows_of(data.val_images, torch.arange(min(SCORED, samples_per_label(data), len(data.val_images))))
    try:
        with all_cores():
            noise = invert_images(generator.eval(), images)
            _, errors = reconstruct_from_noise(generator, images, noise)
    except UsageError:  # not an inversion
        return score
    return score | {"value": rounded(errors.mean()), "uncertainty": rounded(errors.std() / math.sqrt(len(errors)))}


def invert(
    path: str,
    ckpt_path: str = "last",
    output: str | None = None,
    steps: int | None = None,
    model: dict[str, Any] | None = None,
) -> None:
    """Finds the noise of images, and saves a picture of their reconstructions and of the same noise with other labels.

    Args:
        path: The images to invert. Use test for the first test image of each label, or a path to images with labels as
            for ``condgen score``. At most 100 images are used.
        ckpt_path: The checkpoint. Either last or best (of the newest run), mnist (which comes with condgen), a
            checkpoint file or a run directory.
        output: Path to the PNG file. Defaults to inversion.png in the run directory, or in the working directory for
            mnist. Each row shows an image, its reconstruction, and the same noise with every label.
        steps: The number of steps. For the diffusion, these are steps of the ODE from the image to the noise (10 by
            default, or 50 with --model.objective noise). The VAE needs no steps. All other families use them to
            optimize the noise (50 by default).
        model: Hyperparameters to override for sampling, e.g. --model.guidance 1.
    """
    check_png("output", output)
    if steps is not None:
        check_number("steps", steps, at_least=1, at_most=10_000)
    checkpoint_path = find_checkpoint(ckpt_path, Path())
    run = output_directory(checkpoint_path)
    if output is None and run is None:
        raise UsageError(f"{checkpoint_path} is not in a run directory: give a PNG file as --output.")
    checkpoint = read_checkpoint(checkpoint_path)
    generator = generator_of(checkpoint, checkpoint_path, model or {}).requires_grad_(False)
    images = _read(path, data_of(checkpoint, checkpoint_path))
    target = Path(output) if output else run / "inversion.png"  # type: ignore[operator]
    if isinstance(generator, Diffusion):
        noise, round_trip = generator.round_trip(images.images / 255, images.labels, steps)
        print(f"Error of the round trip through the ODE without guidance: {round_trip.mean():.5f}")
    else:
        noise = invert_images(generator, images, steps)
    rows, errors = image_and_other_labels(generator, images, noise)
    say_replacing(target)
    write_png(grid(rows.flatten(0, 1), rows.shape[1]), target)
    print(f"Reconstruction error of {len(errors)} images (mean squared error per pixel): {errors.mean():.5f}")
    print(
        f"Picture: {target} (columns: image, reconstruction, same noise with labels 0 to {generator.num_classes - 1})"
    )


def _read(path: str, data: ImageDataModule) -> Images:
    if path != "test":
        images = read_pictures(Path(path), data)
        if len(images) > MAX_ROWS:
            print(f"Inverting the first {MAX_ROWS} of {len(images):,} images.")
        return rows_of(images, torch.arange(min(MAX_ROWS, len(images))))
    data.source = "auto"  # the checkpoint may have been trained on files that are not on this machine
    data.prepare_data()
    data.setup("test")
    first = first_of_each_label(data.val_images, dict.fromkeys(range(data.num_classes), 1))
    return rows_of(data.val_images, first[:MAX_ROWS])
