"""Probability paths from noise (t = 0) to data (t = 1): x_t = alpha_t x + sigma_t noise.

A path also defines the prediction target of the network, and how the input and the output of the network are scaled.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

DATA_VARIANCE = 0.4  # variance of pixels in [-1, 1], sigma_data² of EDM; 0.38 for MNIST, 0.50 for FashionMNIST


class Path(ABC):
    """Base class of probability paths x_t = alpha_t x + sigma_t noise. The prediction target is a x + b noise."""

    target_weights: ClassVar[tuple[float, float]]
    """The weights a and b of the prediction target."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Computes alpha_t and sigma_t at times t in [0, 1]. Both have the same shape as t."""

    @abstractmethod
    def training_times(self, normal: Tensor) -> Tensor:
        """Maps standard normal numbers (N,) to training times (N,) in (0, 1]."""

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Computes x_t from data x and noise, both with shape (N, C, H, W), at times t (N,)."""
        alpha_t, sigma_t = self.coefficients(t[:, None, None, None])
        return alpha_t * x + sigma_t * noise

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """Computes the prediction target for data x and noise. Both have the same shape."""
        a, b = self.target_weights
        return a * x + b * noise

    def noise(self, x_t: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Computes the noise from x_t and the data x, both with shape (N, C, H, W), at times t (N,).

        This is the inverse of :meth:`add_noise`.
        """
        alpha_t, sigma_t = self.coefficients(t[:, None, None, None])
        return (x_t - alpha_t * x) / sigma_t

    def preconditioning(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the preconditioning coefficients c_skip, c_out and c_in.

        Preconditioning scales the input and the output of a network F: the prediction is c_skip x_t + c_out F(c_in x_t)
        (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364). If
        all pixels were independent with mean 0 and variance DATA_VARIANCE, c_skip x_t would be the best linear
        prediction, and the input and the target of F would have variance 1.

        Args:
            t: Times with shape (N,), or a single time with shape ().

        Returns:
            The three coefficients, each with shape (N, 1, 1, 1), or (1, 1, 1) for a single time.
        """
        a, b = self.target_weights
        alpha_t, sigma_t = self.coefficients(t[..., None, None, None])
        variance = DATA_VARIANCE * alpha_t.square() + sigma_t.square()  # variance of x_t
        c_skip = (a * DATA_VARIANCE * alpha_t + b * sigma_t) / variance
        c_out = DATA_VARIANCE**0.5 * (a * sigma_t - b * alpha_t) / variance.sqrt()
        return c_skip, c_out, 1 / variance.sqrt()


class RectifiedFlow(Path):
    """Straight path of rectified flow, x_t = t x + (1 - t) noise. The prediction target is the velocity x - noise.

    References: Liu et al. 2022, "Flow Straight and Fast", arXiv:2209.03003; Lipman et al. 2022, "Flow Matching for
    Generative Modeling", arXiv:2210.02747.
    """

    target_weights = 1.0, -1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, 1 - t

    def training_times(self, normal: Tensor) -> Tensor:
        """Computes logit-normal times (Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution
        Image Synthesis", arXiv:2403.03206).

        The distribution is shifted towards the noise, because the error is largest there.
        """
        return torch.sigmoid(normal - 0.4)


class VariancePreserving(Path):
    """Variance-preserving path of DDPM, with alpha_t² + sigma_t² = 1. The prediction target is the noise.

    DDPM (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239) uses a finite number of steps.
    This class uses the limit of many steps (Song et al. 2021, "Score-Based Generative Modeling through Stochastic
    Differential Equations", arXiv:2011.13456).
    """

    target_weights = 0.0, 1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s = 1 - t  # the time of the papers, which increases from data to noise
        alpha_squared = torch.exp(-0.1 * s - 9.95 * s.square())  # beta increases linearly from 0.1 to 20
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def training_times(self, normal: Tensor) -> Tensor:
        """Computes uniform times."""
        return torch.special.ndtr(normal)
