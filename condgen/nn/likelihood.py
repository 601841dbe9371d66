"""The log-likelihood of a diffusion model: of images by its ODE, and a bound for slightly noisy images.

An ODE dx/dt = v(x, t) from noise (t = 0) to data (t = 1) maps a normal distribution to a density of images. Along a
trajectory, the log density changes at a rate of -tr(dv/dx) (Chen et al. 2018, "Neural Ordinary Differential Equations",
arXiv:1806.07366). To compute log p(x), we start at the image, solve the ODE backward and add up the trace.

To compare labels, we use a lower bound instead (see :func:`noisy_image_bound`). It needs no trace, and it skips low
noise levels, at which the label has arbitrary effects.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from condgen.nn.paths import Path
from condgen.nn.solvers import Model

END_TIME = 1 - 1e-5  # as in Song et al. 2021, because the derivative of sigma_t can be infinite at t = 1
RHO = 6  # how much shorter the steps get toward the image


def ode_times(steps: int) -> list[float]:
    """Returns ``steps`` + 1 times from the image (t = 1 - 1e-5) to noise (t = 0).

    As in EDM, the steps are much shorter near the image, since the velocity changes quickly there (Karras et al. 2022,
    arXiv:2206.00364, equation 5). This is important for MNIST. Most of its pixels are exactly black, and the derivative
    of the velocity is close to -1 / (1 - t) for pixels that the network is sure of.
    """
    start = (1 - END_TIME) ** (1 / RHO)
    return [1 - (start + step / steps * (1 - start)) ** RHO for step in range(steps + 1)]


def dequantize(images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Spreads each of the 256 gray levels over a bin, since a density has no meaning for discrete values.

    The log probability of an image is at least log p(x) + log(bin volume) on average over the noise (Theis et al. 2015,
    "A note on the evaluation of generative models", arXiv:1511.01844).

    Args:
        images: Images of shape (N, C, H, W). Pixel values must be multiples of 1/255 in [0, 1].
        numbers: Uniform random numbers in [0, 1), with the same shape.

    Returns:
        The images x in [-1, 1], plus or minus half a bin, and the log volume of a bin in nats.
    """
    width = 2 / 255
    x = 2 * images - 1 + width * (numbers - 0.5)
    return x, x.new_tensor(images[0].numel() * math.log(width))


def rademacher(numbers: Tensor) -> Tensor:
    """Converts uniform random numbers in [0, 1) to random signs of the same shape."""
    return torch.where(numbers < 0.5, -1.0, 1.0)


def velocity_and_trace(velocity: Model, x_t: Tensor, t: float, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Computes v(x_t, t) as well as Hutchinson's estimate of tr(dv/dx), which has shape (N,).

    The estimate is probeᵀ (dv/dx) probe (Grathwohl et al. 2018, "FFJORD", arXiv:1810.01367). Since the probes are
    random signs, the diagonal of dv/dx adds no variance. An exact trace would take one backward pass per pixel.
    """
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        v = velocity(x_t, t)
        (gradient,) = torch.autograd.grad(v, x_t, probes)
    return v.detach(), (gradient * probes).flatten(1).sum(1)


def log_density(velocity: Model, x: Tensor, probes: Tensor, times: Sequence[float]) -> Tensor:
    """Computes log p(x) in nats by solving the ODE from the images to noise, using the classic Runge-Kutta method.

    Args:
        velocity: The velocity of the ODE.
        x: Images of shape (N, C, H, W).
        probes: Random signs for the trace estimate, with the same shape.
        times: Decreasing times, see :func:`ode_times`. Each step takes four evaluations.

    Returns:
        A tensor of shape (N,).
    """
    with torch.inference_mode(False):  # Trainer.test turns gradients off in a way that enable_grad cannot undo
        x, probes = x.clone(), probes.clone()
        trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for t, t_next in itertools.pairwise(times):
            h, middle = t_next - t, (t + t_next) / 2
            k1, trace1 = velocity_and_trace(velocity, x, t, probes)
            k2, trace2 = velocity_and_trace(velocity, x + h / 2 * k1, middle, probes)
            k3, trace3 = velocity_and_trace(velocity, x + h / 2 * k2, middle, probes)
            k4, trace4 = velocity_and_trace(velocity, x + h * k3, t_next, probes)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            trace = trace + h / 6 * (trace1 + 2 * trace2 + 2 * trace3 + trace4)
        log_prior = -0.5 * (x.double().square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return (log_prior + trace).float()


def noisy_image_bound(path: Path, model: Model, x: Tensor, noise: Tensor) -> Tensor:
    """Computes a lower bound on the log-likelihood of slightly noisy images in nats, up to a constant.

    The bound is the continuous-time ELBO -1/2 ∫ SNR |x - x_hat|² dλ, where x_hat is the image prediction and λ is the
    log of SNR = alpha_t² / sigma_t² (Kingma et al. 2021, "Variational Diffusion Models", arXiv:2107.00630). The
    constant depends on neither the model nor the label. The integral covers the middle 95 % of the training times, so
    it ends while there is still some noise. This makes it a bound for x_t at the last time, on average over the noise.

    Args:
        path: The probability path.
        model: Predicts the target of the path.
        x: Images of shape (N, C, H, W) in [-1, 1].
        noise: Standard normal noise of shape (N, steps, C, H, W). Each step of the integral takes one evaluation.

    Returns:
        A tensor of shape (N,).
    """
    steps = noise.shape[1]
    # two standard deviations around the mean; every other time is the midpoint of a step
    times = path.training_times(torch.linspace(-2, 2, 2 * steps + 1, dtype=torch.float64))
    alphas, sigmas = path.coefficients(times)
    log_snr = 2 * (alphas / sigmas).log()
    bound = x.new_zeros(len(x))
    for step, (t, d_log_snr) in enumerate(zip(times[1::2].tolist(), log_snr[::2].diff().tolist(), strict=True)):
        alpha_t, sigma_t = path.coefficients_at(t)
        x_t = alpha_t * x + sigma_t * noise[:, step]
        error = (x - path.image(x_t, model(x_t, t), t)).square().flatten(1).sum(1)
        bound = bound - 0.5 * (alpha_t / sigma_t) ** 2 * error * d_log_snr
    return bound
