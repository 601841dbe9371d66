"""Solvers that transform noise into images.

Each solver is a pure function of a model, the noise x (N, C, H, W) and the times. A model is a function of x_t and t.
Times increase from 0 (noise) to 1 (image).
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from condgen.nn.paths import Path

Model = Callable[[Tensor, float], Tensor]  # maps x_t (N, C, H, W) and t to a prediction (N, C, H, W)


def euler(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """Solves the ODE with Euler's method, which is of first order and uses one evaluation per step."""
    for t, t_next in itertools.pairwise(times):
        x = x + (t_next - t) * velocity(x, t)
    return x


def heun(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """Solves the ODE with Heun's method, which is of second order and uses two evaluations per step.

    The last step is a step of Euler's method, because the network is not trained at t = 1.
    """
    for t, t_next in itertools.pairwise(times):
        v = velocity(x, t)
        if t_next < 1:
            v = (v + velocity(x + (t_next - t) * v, t_next)) / 2
        x = x + (t_next - t) * v
    return x


def multistep(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """Solves the ODE with a multistep method, which is of second order and uses one evaluation per step.

    In each step, the prediction of the image is extrapolated linearly in t, with the slope between the last two
    predictions. The step is exact if the prediction is in fact linear in t. The first step uses a slope of 0, and the
    last step returns the prediction itself. DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095) uses the same idea,
    but its extrapolation is linear in the log-SNR.
    """
    image = slope = torch.zeros_like(x)
    t_previous = 0.0
    for t, t_next in itertools.pairwise(times):
        previous, image = image, x + (1 - t) * velocity(x, t)
        if t > 0:
            slope = (image - previous) / (t - t_previous)
        if t_next < 1:
            ratio = (1 - t_next) / (1 - t)  # fraction of the noise that remains
            x = ratio * x + (1 - ratio) * image + (t_next - t + (1 - t_next) * math.log(ratio)) * slope
        t_previous = t
    return image


def ddim(predict_noise: Model, x: Tensor, times: Sequence[float], path: Path) -> Tensor:
    """Generates images with deterministic DDIM (eta = 0).

    In each step, the prediction of the image is clipped to [-1, 1]. Reference: Song et al. 2020, "Denoising Diffusion
    Implicit Models", arXiv:2010.02502.
    """
    coefficients = path.coefficients(torch.tensor(times, dtype=torch.float64))
    alphas, sigmas = (itertools.pairwise(coefficient.tolist()) for coefficient in coefficients)
    for t, (alpha, alpha_next), (sigma, sigma_next) in zip(times[:-1], alphas, sigmas, strict=True):
        noise = predict_noise(x, t)
        image = ((x - sigma * noise) / alpha).clamp(-1, 1)
        x = alpha_next * image + sigma_next * noise
    return x
