"""Inpainting: keeps the known pixels of an image and generates all others, using a diffusion model."""

import torch
from torch import Tensor

from condgen.errors import UsageError
from condgen.generators import Diffusion

STEPS, REPEATS = 20, 3  # steps from noise to image, and how often each one is repeated


@torch.no_grad()
def inpaint(generator: Diffusion, images: Tensor, mask: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    """Generates the unknown pixels of images, without any training for this task.

    In each step we predict the image from x_t, replace the pixels that are known, and add the noise for the next time.
    Each step is repeated a few times, so that the generated pixels can adapt to the known ones. This is a deterministic
    variant of RePaint (Lugmayr et al. 2022, arXiv:2201.09865), which adds new noise each time. We always add the given
    noise, so the noise determines the image.

    Args:
        generator: The diffusion model, in eval mode.
        images: Images of shape (N, C, H, W) in [0, 1]. Unknown pixels may have any value.
        mask: Boolean tensor, True where a pixel is known. Must broadcast to the shape of ``images``.
        labels: Labels of shape (N,).
        noise: Noise of shape (N, C, H, W), e.g. from ``generator.sample_noise``.

    Returns:
        Images of shape (N, C, H, W) in [0, 1]. Known pixels are exactly those of ``images``.

    Raises:
        UsageError: If the shapes or types don't match the generator.
    """
    if not isinstance(generator, Diffusion):
        raise UsageError(f"{type(generator).__name__} cannot inpaint. Use a diffusion model.")
    generator.check_images_and_labels(images, labels)
    generator.check_labels_and_noise(labels, noise)
    try:
        known = mask.expand(images.shape)
    except RuntimeError:
        known = mask
    if mask.dtype != torch.bool or known.shape != images.shape:
        raise UsageError(
            f"The mask is {mask.dtype} {tuple(mask.shape)}. Use bool, with a shape that broadcasts to "
            f"{tuple(images.shape)}."
        )
    x, model, path = 2 * images - 1, generator.guided_model(labels), generator.path
    times = [step / STEPS for step in range(STEPS) for _ in range(REPEATS)]
    x_t = noise
    for t, t_next in zip(times, [*times[1:], 1.0], strict=True):
        predicted = path.image(x_t, model(x_t, t), t).clamp(-1, 1)
        predicted = torch.where(known, x, predicted)
        x_t = path.add_noise(predicted, noise, predicted.new_full((len(predicted),), t_next))
    return torch.where(known, images, (x_t / 2 + 0.5).clamp(0, 1))
