"""Probability paths from noise (t = 0) to data (t = 1): x_t = alpha_t x + sigma_t noise.

A path also defines the prediction target of the network, and the scaling of its input and output.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

DATA_VARIANCE = 0.4  # of pixels in [-1, 1]: 0.38 for MNIST, 0.50 for FashionMNIST (sigma_data² of EDM)


class Path(ABC):
    """A path x_t = alpha_t x + sigma_t noise, with the network's target a x + b noise."""

    target_weights: ClassVar[tuple[float, float]]
    """a and b."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t at times t in [0, 1], in the shape of t."""

    @abstractmethod
    def training_times(self, normal: Tensor) -> Tensor:
        """Standard normal numbers (N,) to the times (N,) in (0, 1] of training."""

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of data and noise (N, C, H, W) at times (N,)."""
        alpha_t, sigma_t = self.coefficients(t[:, None, None, None])
        return alpha_t * x + sigma_t * noise

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """Returns the prediction target for data and noise of the same shape."""
        a, b = self.target_weights
        return a * x + b * noise

    def noise(self, x_t: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Returns the noise in x_t if the data are x: the inverse of :meth:`add_noise`."""
        alpha_t, sigma_t = self.coefficients(t[:, None, None, None])
        return (x_t - alpha_t * x) / sigma_t

    def preconditioning(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in at times (N,), or () for one time: (N, 1, 1, 1) or (1, 1, 1) each.

        The prediction is c_skip x_t + c_out F(c_in x_t) for a network F (Karras et al. 2022, "Elucidating the Design
        Space of Diffusion-Based Generative Models", arXiv:2206.00364). If pixels were independent with mean 0 and
        variance DATA_VARIANCE, c_skip x_t would be the best linear prediction, and the network's input and target would
        have a variance of 1.
        """
        a, b = self.target_weights
        alpha_t, sigma_t = self.coefficients(t[..., None, None, None])
        variance = DATA_VARIANCE * alpha_t.square() + sigma_t.square()  # of x_t
        c_skip = (a * DATA_VARIANCE * alpha_t + b * sigma_t) / variance
        c_out = DATA_VARIANCE**0.5 * (a * sigma_t - b * alpha_t) / variance.sqrt()
        return c_skip, c_out, 1 / variance.sqrt()


class RectifiedFlow(Path):
    """A straight line, x_t = t x + (1 - t) noise. The target is its velocity, x - noise.

    Liu et al. 2022, "Flow Straight and Fast", arXiv:2209.03003; Lipman et al. 2022, "Flow Matching for Generative
    Modeling", arXiv:2210.02747.
    """

    target_weights = 1.0, -1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, 1 - t

    def training_times(self, normal: Tensor) -> Tensor:
        """Logit-normal times (Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image
        Synthesis", arXiv:2403.03206), here shifted towards the noise, where the error is largest."""
        return torch.sigmoid(normal - 0.4)


class VariancePreserving(Path):
    """The path of DDPM: alpha_t² + sigma_t² = 1. The target is the noise.

    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, in the limit of many steps (Song et
    al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456).
    """

    target_weights = 0.0, 1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s = 1 - t  # the papers' time, from data to noise
        alpha_squared = torch.exp(-0.1 * s - 9.95 * s.square())  # beta rises linearly from 0.1 to 20
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def training_times(self, normal: Tensor) -> Tensor:
        """Uniform times."""
        return torch.special.ndtr(normal)
