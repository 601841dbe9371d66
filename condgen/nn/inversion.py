"""Finds the noise for an image by optimization, for generators that have no exact inverse."""

from collections.abc import Callable

import torch
from torch import Tensor

STEPS, LR = 50, 0.1  # steps and learning rate for Adam


def squared_error(images: Tensor, target: Tensor) -> Tensor:
    """Computes the mean squared error per pixel of each image. The result has shape (N,)."""
    return (images - target).square().flatten(1).mean(1)


def optimize_noise(
    generate: Callable[[Tensor], Tensor], images: Tensor, starts: Tensor, bounded: bool, steps: int
) -> Tensor:
    """Minimizes the squared error between generated and given images over the noise, using Adam (arXiv:1412.6980).

    The error is not convex in the noise, so we optimize from several starts and keep the best noise for each image.
    The gradient of an image only depends on its own noise, so other images in the batch don't change the result.

    Args:
        generate: Maps noise (N, *noise_shape) to images (N, C, H, W) in [0, 1].
        images: The images to reconstruct, of shape (N, C, H, W) in [0, 1].
        starts: Initial noise of shape (S, N, *noise_shape), with S starts per image.
        bounded: Whether to keep the noise in [0, 1), for generators with uniform noise.
        steps: The number of optimization steps per start.

    Returns:
        The noise with the lowest error, of shape (N, *noise_shape).
    """
    best, lowest = starts[0].clone(), torch.full((len(images),), torch.inf, device=images.device)
    for start in starts:
        noise = start.clone().requires_grad_()
        adam = torch.optim.Adam([noise], lr=LR)
        for step in range(steps + 1):
            with torch.enable_grad():
                errors = squared_error(generate(noise).float(), images)
            is_better = errors.detach() < lowest
            lowest = torch.where(is_better, errors.detach(), lowest)
            best[is_better] = noise.detach()[is_better]
            if step == steps or not errors.requires_grad:
                break
            (noise.grad,) = torch.autograd.grad(errors, noise, torch.ones_like(errors))
            adam.step()
            if bounded:
                with torch.no_grad():
                    noise.clamp_(0, 1 - 2**-24)
    return best
