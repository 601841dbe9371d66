"""A normalising flow of affine coupling layers, conditioned on the label."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AffineCoupling(nn.Module):
    """Scales and shifts the second half of z by a function of the first half and the label.

    Dinh et al. 2017, "Density estimation using Real NVP", arXiv:1605.08803. Starts as the identity.

    Args:
        dim: number of dimensions.
        num_classes: labels are 0 … ``num_classes`` - 1.
        hidden_dim: width of the network.
    """

    def __init__(self, dim: int, num_classes: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fixed_dim = dim // 2
        last = nn.Linear(hidden_dim, 2 * (dim - self.fixed_dim))
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.network = nn.Sequential(
            nn.Linear(self.fixed_dim + num_classes, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.SiLU(),
            last,
        )

    def log_scale_and_shift(self, fixed: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the first half (N, dim // 2) and labels (N,) to the second half's log scale, in (-2, 2), and its
        shift."""
        one_hot = F.one_hot(labels, self.num_classes).to(fixed)
        log_scale, shift = self.network(torch.cat((fixed, one_hot), dim=1)).float().chunk(2, dim=1)
        return 2 * torch.tanh(log_scale / 2), shift

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """z (N, dim) to the transformed z (N, dim) and the log determinant of the Jacobian (N,)."""
        fixed, moved = z[:, : self.fixed_dim], z[:, self.fixed_dim :]
        log_scale, shift = self.log_scale_and_shift(fixed, labels)
        return torch.cat((fixed, moved * torch.exp(log_scale) + shift), dim=1), log_scale.sum(1)

    def inverse(self, z: Tensor, labels: Tensor) -> Tensor:
        """Returns the inverse of ``forward``: (N, dim) to (N, dim)."""
        fixed, moved = z[:, : self.fixed_dim], z[:, self.fixed_dim :]
        log_scale, shift = self.log_scale_and_shift(fixed, labels)
        return torch.cat((fixed, (moved - shift) * torch.exp(-log_scale)), dim=1)


class FlowPrior(nn.Module):
    """p(z | label): a chain of coupling layers maps latents to standard normal noise.

    Args:
        dim: size of the latent, 2 or more.
        num_classes: labels are 0 … ``num_classes`` - 1.
        steps: number of coupling layers. Dimensions are permuted after each.
        hidden_dim: width of the coupling layers' networks.
    """

    def __init__(self, dim: int, num_classes: int, steps: int, hidden_dim: int = 512) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AffineCoupling(dim, num_classes, hidden_dim) for _ in range(steps))
        self.permutations: Tensor
        self.register_buffer("permutations", torch.rand(steps, dim).argsort(1))

    def sample(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Standard normal noise (N, dim) and labels (N,) to latents (N, dim)."""
        z = noise
        for layer, permutation in zip(reversed(self.layers), self.permutations.flip(0), strict=True):
            assert isinstance(layer, AffineCoupling)
            z = layer.inverse(z[:, permutation.argsort()], labels)
        return z

    def log_prob(self, latent: Tensor, labels: Tensor) -> Tensor:
        """log p(latent | label) of latents (N, dim): (N,), in nats."""
        z, log_determinant = latent, latent.new_zeros(len(latent))
        for layer, permutation in zip(self.layers, self.permutations, strict=True):
            z, log_det = layer(z, labels)
            z, log_determinant = z[:, permutation], log_determinant + log_det
        return normal_log_prob(z) + log_determinant


def normal_log_prob(z: Tensor) -> Tensor:
    """Log density of the standard normal distribution at z (N, dim): (N,), in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
