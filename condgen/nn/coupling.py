"""Label-conditional normalizing flow made up of affine coupling layers."""

import math

import torch
from torch import Tensor, nn

from condgen.nn.labels import one_hot


class AffineCoupling(nn.Module):
    """Affine coupling layer (Dinh et al. 2017, "Density estimation using Real NVP", arXiv:1605.08803).

    Scales and shifts the second half of z, based on the first half and the label. Initialized as the identity.

    Args:
        dim: The number of dimensions of z.
        num_classes: The number of classes.
        hidden_dim: Width of the network's hidden layers.
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
        """Computes the log scale in (-2, 2) and the shift for the second half of z, both of shape (N, dim - dim // 2).

        ``fixed`` is the first half of z, of shape (N, dim // 2).
        """
        condition = one_hot(labels, self.num_classes).to(fixed)
        log_scale, shift = self.network(torch.cat((fixed, condition), dim=1)).float().chunk(2, dim=1)
        return 2 * torch.tanh(log_scale / 2), shift

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Transforms z of shape (N, dim). Also returns the log determinant of the Jacobian (N,)."""
        fixed, moved = z[:, : self.fixed_dim], z[:, self.fixed_dim :]
        log_scale, shift = self.log_scale_and_shift(fixed, labels)
        return torch.cat((fixed, moved * torch.exp(log_scale) + shift), dim=1), log_scale.sum(1)

    def inverse(self, z: Tensor, labels: Tensor) -> Tensor:
        """The inverse of ``forward``. Both input and output are of shape (N, dim)."""
        fixed, moved = z[:, : self.fixed_dim], z[:, self.fixed_dim :]
        log_scale, shift = self.log_scale_and_shift(fixed, labels)
        return torch.cat((fixed, (moved - shift) * torch.exp(-log_scale)), dim=1)


class FlowPrior(nn.Module):
    """A learned prior p(z | label) that maps latents to standard normal noise through a chain of coupling layers.

    Args:
        dim: Latent size. Must be at least 2.
        num_classes: The number of classes.
        steps: The number of coupling layers. Each one is followed by a permutation of the dimensions.
        hidden_dim: Width of the hidden layers in the coupling networks.
    """

    def __init__(self, dim: int, num_classes: int, steps: int, hidden_dim: int = 512) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AffineCoupling(dim, num_classes, hidden_dim) for _ in range(steps))
        self.permutations: Tensor
        self.register_buffer("permutations", torch.rand(steps, dim).argsort(1))

    def sample(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Maps standard normal noise (N, dim) to latents (N, dim) for the given labels (N,) or class weights."""
        z = noise
        for layer, permutation in zip(reversed(self.layers), self.permutations.flip(0), strict=True):
            assert isinstance(layer, AffineCoupling)
            z = layer.inverse(z[:, permutation.argsort()], labels)
        return z

    def to_noise(self, latent: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of ``sample``. Also returns the log determinant of its Jacobian (N,)."""
        z, log_determinant = latent, latent.new_zeros(len(latent))
        for layer, permutation in zip(self.layers, self.permutations, strict=True):
            z, log_det = layer(z, labels)
            z, log_determinant = z[:, permutation], log_determinant + log_det
        return z, log_determinant

    def log_prob(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Computes log p(latent | label) in nats for latents (N, dim). The result has shape (N,)."""
        z, log_determinant = self.to_noise(latent, labels)
        return normal_log_prob(z) + log_determinant


def normal_log_prob(z: Tensor) -> Tensor:
    """Computes the standard normal log density at z (N, dim), in nats. The result has shape (N,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
