"""Solvers that turn noise into images.

Each solver is a pure function that takes a model of x_t and t, the initial noise x (N, C, H, W) and a list of times.
Times go from 0 (noise) to 1 (image).
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from condgen.nn.paths import Path

Model = Callable[[Tensor, float], Tensor]  # maps x_t (N, C, H, W) and t to a prediction (N, C, H, W)


def equal_steps(steps: int) -> list[float]:
    """Returns the ``steps`` + 1 times from 0 (noise) to 1 (image) at which steps of equal size begin or end."""
    return [step / steps for step in range(steps + 1)]


def euler(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """Solves the ODE using Euler's method. First order, one evaluation per step."""
    for t, t_next in itertools.pairwise(times):
        x = x + (t_next - t) * velocity(x, t)
    return x


def heun(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """Solves the ODE using Heun's method. Second order, two evaluations per step.

    Falls back to Euler for the last step, since the network is not trained at t = 1.
    """
    for t, t_next in itertools.pairwise(times):
        v = velocity(x, t)
        if t_next < 1:
            v = (v + velocity(x + (t_next - t) * v, t_next)) / 2
        x = x + (t_next - t) * v
    return x


def multistep(velocity: Model, x: Tensor, times: Sequence[float]) -> Tensor:
    """Solves the ODE using a multistep method. Second order, one evaluation per step.

    Each step extrapolates the image prediction linearly in t, using the slope between the last two predictions. This is
    exact if the prediction really is linear in t. The first step uses a slope of 0, and the last one just returns the
    prediction. DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095) is similar but extrapolates in log-SNR.
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


def ddim(predict_noise: Model, x: Tensor, times: Sequence[float], path: Path, clip: bool = True) -> Tensor:
    """Samples images using deterministic DDIM (eta = 0), clipping each image prediction to [-1, 1].

    For inversion, ``clip`` must be False. Clipping in each step from image to noise can't be undone by the step back.

    See Song et al. 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502.
    """
    coefficients = path.coefficients(torch.tensor(times, dtype=torch.float64))
    alphas, sigmas = (itertools.pairwise(coefficient.tolist()) for coefficient in coefficients)
    for t, (alpha, alpha_next), (sigma, sigma_next) in zip(times[:-1], alphas, sigmas, strict=True):
        noise = predict_noise(x, t)
        image = (x - sigma * noise) / alpha
        image = image.clamp(-1, 1) if clip else image
        x = alpha_next * image + sigma_next * noise
    return x
