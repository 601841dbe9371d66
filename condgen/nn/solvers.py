"""Solvers that turn noise into images, as pure functions of a model, the noise and the times.

A model is a function of (x_t, t). Times rise from 0 (noise) to 1 (image); ``heun`` and ``multistep`` take equal steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from condgen.nn.paths import Path

Model = Callable[[Tensor, float], Tensor]  # x_t (N, C, H, W) and t to a prediction (N, C, H, W)


def euler(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """Euler's method: first order, one evaluation a step."""
    for t, t_next in itertools.pairwise(times):
        x = x + (t_next - t) * velocity(x, t)
    return x


def heun(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """Heun's method: second order, two evaluations a step. The last step is Euler's, because t = 1 has no noise."""
    for t, t_next in itertools.pairwise(times):
        v = velocity(x, t)
        if t_next < 1:
            v = (v + velocity(x + (t_next - t) * v, t_next)) / 2
        x = x + (t_next - t) * v
    return x


def multistep(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """A second-order multistep method: one evaluation a step.

    It is exact if the prediction of the image is linear in t, and takes the slope from the last two predictions. This
    is the idea of DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095), in the time of the rectified flow.
    """
    image = slope = torch.zeros_like(x)
    for t, t_next in itertools.pairwise(times):
        previous, image = image, x + (1 - t) * velocity(x, t)
        if t > 0:
            slope = (image - previous) / (t_next - t)
        if t_next < 1:
            ratio = (1 - t_next) / (1 - t)  # of the noise that remains
            x = ratio * x + (1 - ratio) * image + (t_next - t + (1 - t_next) * math.log(ratio)) * slope
    return image


def ddim(predict_noise: Model, x: Tensor, times: Sequence[float], path: Path) -> Tensor:
    """DDIM without noise (Song et al. 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502)."""
    for t, t_next in itertools.pairwise(times):
        (alpha, alpha_next), (sigma, sigma_next) = (
            coefficient.tolist() for coefficient in path.coefficients(torch.tensor([t, t_next], dtype=torch.float64))
        )
        noise = predict_noise(x, t)
        image = ((x - sigma * noise) / alpha).clamp(-1, 1)
        x = alpha_next * image + sigma_next * noise
    return x
