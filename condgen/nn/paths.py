"""Probability paths from noise (t = 0) to data (t = 1): x_t = alpha_t x + sigma_t noise.

A path also defines what the network predicts and how its inputs and outputs are scaled.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

DATA_VARIANCE = 0.4  # variance of pixels in [-1, 1], sigma_data² of EDM; 0.38 for MNIST, 0.50 for FashionMNIST


class Path(ABC):
    """Base class for probability paths x_t = alpha_t x + sigma_t noise. The prediction target is a x + b noise."""

    target_weights: ClassVar[tuple[float, float]]
    """Weights a and b of the prediction target."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns alpha_t and sigma_t for times t in [0, 1]. Both have the same shape as t."""

    def coefficients_at(self, t: float) -> tuple[float, float]:
        """Returns alpha_t and sigma_t for a single time as numbers in double precision."""
        alpha_t, sigma_t = self.coefficients(torch.tensor(t, dtype=torch.float64))
        return float(alpha_t), float(sigma_t)

    @abstractmethod
    def derivatives(self, t: float) -> tuple[float, float]:
        """Returns the time derivatives of alpha_t and sigma_t for a time t below 1."""

    @abstractmethod
    def training_times(self, normal: Tensor) -> Tensor:
        """Maps standard normal numbers (N,) to training times (N,) in (0, 1]."""

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Computes x_t from data x and noise of shape (N, C, H, W) at times t (N,)."""
        alpha_t, sigma_t = self.coefficients(t[:, None, None, None])
        return alpha_t * x + sigma_t * noise

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """Computes the prediction target from data x and noise of the same shape."""
        a, b = self.target_weights
        return a * x + b * noise

    def noise(self, x_t: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Recovers the noise from x_t and x (N, C, H, W) at times t (N,). This is the inverse of :meth:`add_noise`."""
        alpha_t, sigma_t = self.coefficients(t[:, None, None, None])
        return (x_t - alpha_t * x) / sigma_t

    def image(self, x_t: Tensor, prediction: Tensor, t: float) -> Tensor:
        """Computes the image that corresponds to a prediction of the target, where x_t is known and t is below 1.

        Args:
            x_t: Noisy images of shape (N, C, H, W).
            prediction: Predictions of the target, with the same shape.
            t: A single time for all images.
        """
        a, b = self.target_weights
        alpha_t, sigma_t = self.coefficients_at(t)
        return (sigma_t * prediction - b * x_t) / (a * sigma_t - b * alpha_t)

    def velocity(self, x_t: Tensor, prediction: Tensor, t: float) -> Tensor:
        """Computes the velocity dx_t/dt of the probability-flow ODE from a prediction of the target, for t below 1.

        The velocity is alpha_t' x + sigma_t' noise, using the image x and the noise that belong to the prediction (Song
        et al. 2021, arXiv:2011.13456; Lipman et al. 2022, arXiv:2210.02747). See :meth:`image` for the arguments.
        """
        a, b = self.target_weights
        alpha_t, sigma_t = self.coefficients_at(t)
        d_alpha, d_sigma = self.derivatives(t)
        noise = (a * x_t - alpha_t * prediction) / (a * sigma_t - b * alpha_t)
        return d_alpha * self.image(x_t, prediction, t) + d_sigma * noise

    def preconditioning(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the preconditioning coefficients c_skip, c_out and c_in.

        Preconditioning scales the input and output of a network F, so that the prediction becomes c_skip x_t + c_out
        F(c_in x_t) (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
        arXiv:2206.00364). If all pixels were independent with mean 0 and variance DATA_VARIANCE, then c_skip x_t would
        be the best linear prediction, and both the input and the target of F would have unit variance.

        Args:
            t: Times of shape (N,), or a single time of shape ().

        Returns:
            The three coefficients, each of shape (N, 1, 1, 1), or (1, 1, 1) for a single time.
        """
        a, b = self.target_weights
        alpha_t, sigma_t = self.coefficients(t[..., None, None, None])
        variance = DATA_VARIANCE * alpha_t.square() + sigma_t.square()  # variance of x_t
        c_skip = (a * DATA_VARIANCE * alpha_t + b * sigma_t) / variance
        c_out = DATA_VARIANCE**0.5 * (a * sigma_t - b * alpha_t) / variance.sqrt()
        return c_skip, c_out, 1 / variance.sqrt()


class RectifiedFlow(Path):
    """The straight path used by rectified flow, x_t = t x + (1 - t) noise. The network predicts the velocity x - noise.

    References: Liu et al. 2022, "Flow Straight and Fast", arXiv:2209.03003; Lipman et al. 2022, "Flow Matching for
    Generative Modeling", arXiv:2210.02747.
    """

    target_weights = 1.0, -1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, 1 - t

    def derivatives(self, t: float) -> tuple[float, float]:
        return 1.0, -1.0

    def training_times(self, normal: Tensor) -> Tensor:
        """Returns logit-normal times, shifted toward the noise since that is where the error is largest.

        See Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        arXiv:2403.03206.
        """
        return torch.sigmoid(normal - 0.4)


class VariancePreserving(Path):
    """The variance-preserving path used by DDPM, with alpha_t² + sigma_t² = 1. The network predicts the noise.

    DDPM (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239) has a finite number of steps. We
    use the continuous limit (Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential
    Equations", arXiv:2011.13456).
    """

    target_weights = 0.0, 1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s = 1 - t  # time as used in the papers, from data to noise
        alpha_squared = torch.exp(-0.1 * s - 9.95 * s.square())  # beta increases linearly from 0.1 to 20
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def derivatives(self, t: float) -> tuple[float, float]:
        alpha_t, sigma_t = self.coefficients_at(t)
        d_alpha = (0.05 + 9.95 * (1 - t)) * alpha_t
        return d_alpha, -alpha_t * d_alpha / sigma_t  # because alpha_t² + sigma_t² = 1

    def training_times(self, normal: Tensor) -> Tensor:
        """Returns uniform times."""
        return torch.special.ndtr(normal)
