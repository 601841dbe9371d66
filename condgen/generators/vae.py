"""VAE: a network that draws an image from a latent, and one that tells which latent a real image would be drawn from.

The DNN's latent has nothing to do with the image that it is compared with, so the network learns to ignore it. Here a
second network, the encoder, looks at that image and gives the latent, as a normal distribution: now the latent says
which of the many threes is meant, and the decoder, the article's network, need not average. To draw without an image to
begin with, one must know where latents lie: the prior. Both wishes are one number, the evidence lower bound of the
images' log-likelihood (Kingma and Welling 2013), in nats per image:

    ELBO = E[log p(image | latent, label)]  -  E[log q(latent | image, label) - log p(latent | label)]
           how well it is reconstructed        what its latent tells beyond the prior (KL)

Two things make the samples better than those of the textbook's VAE, and leave the bound exact:

- The likelihood is one of 256 grey values: a logistic distribution cut into levels, the outermost of which take what
  lies beyond them (Salimans et al. 2017). Four fifths of MNIST's pixels are exactly black: a Bernoulli distribution
  takes a grey pixel for a doubtful one, a normal distribution believes in blacker than black. Each pixel's scale is
  learnt, and with it how much the reconstruction weighs against the KL: there is no β to choose.
- The latents of a label fill no ball, so that most of a ball's latents are of no digit. The prior is learnt as well:
  for each label a normalising flow (Dinh et al. 2017), which bends normal noise into latents, by the same bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.errors import check_number
from condgen.generators.base import ConditionalGenerator
from condgen.generators.dnn import DNNNetwork, with_label
from condgen.nn.schedule import ScheduleName, optimizer_and_schedule
from condgen.noise import Distribution


class Encoder(nn.Module):
    """The article's network the other way round: from an image and its label to the posterior of the latent.

    Args:
        image_shape: (C, H, W) of the images; H and W are multiples of 4.
        num_classes: labels are 0 … ``num_classes`` - 1.
        latent_dim: size of the latent.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, latent_dim: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.num_classes = num_classes
        self.conv = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 128, kernel_size=4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.fc = nn.Sequential(
            nn.Linear(128 * (height // 4) * (width // 4) + num_classes, 1024, bias=False),
            nn.BatchNorm1d(1024),
            nn.ReLU(),
            nn.Linear(1024, 2 * latent_dim),
        )

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] and labels (N,) to mean and log standard deviation (N, latent_dim) each."""
        mean, log_std = self.fc(with_label(self.conv(images), labels, self.num_classes)).chunk(2, dim=1)
        return mean.float(), log_std.float().clamp(-7, 2)


class Coupling(nn.Module):
    """A step of the flow: a network sees one half of the numbers, and the label, and scales and shifts the other half.

    Args:
        dim: how many numbers.
        num_classes: labels are 0 … ``num_classes`` - 1.
        hidden_dim: of the network.
    """

    def __init__(self, dim: int, num_classes: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.seen = dim // 2
        last = nn.Linear(hidden_dim, 2 * (dim - self.seen))
        for parameter in last.parameters():  # it begins as the identity
            nn.init.zeros_(parameter)
        self.network = nn.Sequential(
            nn.Linear(self.seen + num_classes, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.SiLU(),
            last,
        )

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The half of z (N, dim) that is seen, the other one, and that one's log scale and shift."""
        seen, other = z[:, : self.seen], z[:, self.seen :]
        log_scale, shift = self.network(with_label(seen, labels, self.num_classes)).float().chunk(2, dim=1)
        return seen, other, 2 * torch.tanh(log_scale / 2), shift


class FlowPrior(nn.Module):
    """Where the latents of each label lie: normal noise, bent by a chain of invertible steps.

    Args:
        dim: size of the latent, 2 or more.
        num_classes: labels are 0 … ``num_classes`` - 1.
        steps: of the chain. Before each the numbers change places at random, so that nearly all are seen and moved.
        hidden_dim: of each step's network.
    """

    def __init__(self, dim: int, num_classes: int, steps: int, hidden_dim: int = 512) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Coupling(dim, num_classes, hidden_dim) for _ in range(steps))
        self.orders: Tensor
        self.register_buffer("orders", torch.rand(steps, dim).argsort(1))

    def latent(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Standard normal noise (N, dim) and labels (N,) to latents (N, dim)."""
        z = noise
        for step, order in zip(reversed(self.steps), self.orders.flip(0), strict=True):
            seen, other, log_scale, shift = step(z[:, order.argsort()], labels)
            z = torch.cat((seen, (other - shift) * torch.exp(-log_scale)), dim=1)
        return z

    def log_density(self, latent: Tensor, labels: Tensor) -> Tensor:
        """log p(latent | label) of latents (N, dim): (N,), in nats."""
        z, log_volume = latent, latent.new_zeros(len(latent))
        for step, order in zip(self.steps, self.orders, strict=True):
            seen, other, log_scale, shift = step(z, labels)
            z = torch.cat((seen, other * torch.exp(log_scale) + shift), dim=1)[:, order]
            log_volume = log_volume + log_scale.sum(1)
        return log_normal(z) + log_volume


def log_normal(z: Tensor) -> Tensor:
    """Log density of the standard normal distribution at z (N, dim): (N,), in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


def discretized_logistic_log_prob(images: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Log-likelihood of grey values under logistic distributions that are cut into 256 levels.

    Args:
        images: (N, C, H, W), multiples of 1/255 in [0, 1].
        location: (N, C, H, W), the middle of each pixel's distribution.
        log_scale: (C, H, W), of each pixel's distribution.

    Returns:
        (N,), in nats per image, at most 0.
    """
    per_scale = torch.exp(-log_scale)
    above = (images - location + 1 / 510) * per_scale  # a level's upper end
    below = (images - location - 1 / 510) * per_scale
    # sigmoid(above) - sigmoid(below), of which 32 bits would often leave nothing, is this product:
    up_to = torch.where(images > 1 - 1 / 510, 0.0, F.logsigmoid(above))
    from_there = torch.where(images < 1 / 510, 0.0, F.logsigmoid(-below))
    inside = (images - 0.5).abs() < 0.5 - 1 / 510
    width = torch.where(inside, torch.log(-torch.expm1(-per_scale / 255)), 0.0)
    return (up_to + from_there + width).flatten(1).sum(1)


class VAE(ConditionalGenerator):
    """A conditional VAE with the article's network as its decoder; see the module.

    What is drawn is the middle of each pixel's distribution, without the pixel's own noise.

    Args:
        latent_dim: size of the latent.
        num_classes: follows the data set.
        image_shape: (C, H, W), follows the data set.
        flow_steps: of the prior; 0 for the textbook's prior, standard normal.
        lr: learning rate of Adam.
        schedule: what the learning rate does after the warm-up: stay, or fall to 0 over the run, in a straight line or
            like half a cosine.
        warmup_steps: steps over which the learning rate rises.
    """

    def __init__(
        self,
        latent_dim: int = 24,
        num_classes: int = 10,
        image_shape: Sequence[int] = (1, 28, 28),
        flow_steps: int = 8,
        lr: float = 2e-3,
        schedule: ScheduleName = "cosine",
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(num_classes, image_shape)
        check_number("model.latent_dim", latent_dim, at_least=2, at_most=1_000_000)
        check_number("model.flow_steps", flow_steps, at_least=0, at_most=1_000)
        check_number("model.lr", lr, above=0)
        check_number("model.warmup_steps", warmup_steps, at_least=0)
        self.save_hyperparameters()
        self.latent_dim = latent_dim
        self.lr, self.schedule, self.warmup_steps = lr, schedule, warmup_steps
        self.encoder = Encoder(self.image_shape, num_classes, latent_dim)
        self.decoder = DNNNetwork(latent_dim + num_classes, self.image_shape)
        self.prior = FlowPrior(latent_dim, num_classes, flow_steps)
        self.log_scale = nn.Parameter(torch.full(self.image_shape, math.log(0.2)))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    @property
    def sampler(self) -> nn.Module:
        return nn.ModuleList((self.prior, self.decoder))

    @property
    def noise_distribution(self) -> Distribution:
        return "normal"

    def location(self, latent: Tensor, labels: Tensor) -> Tensor:
        """The middle of each pixel's distribution, (N, C, H, W) in [-0.5, 1.5]: black and white lie well inside."""
        return 2 * self.decoder(with_label(latent, labels, self.num_classes)).float() - 0.5

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.location(self.prior.latent(noise, labels), labels).clamp(0, 1)

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1], drawn from the middle of what the encoder takes them for."""
        mean, _ = self.encoder(images, labels)
        return self.location(mean, labels).clamp(0, 1)

    def evidence(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of the bound, mean over images, in nats per image: log-likelihood and KL.

        Args:
            images: (N, C, H, W), multiples of 1/255 in [0, 1].
            labels: (N,).
            noise: (N, latent_dim), standard normal: which latent is taken from each posterior.
        """
        mean, log_std = self.encoder(images, labels)
        latent = mean + log_std.exp() * noise
        log_posterior = log_normal(noise) - log_std.sum(1)
        kl = log_posterior - self.prior.log_density(latent, labels)
        return discretized_logistic_log_prob(images, self.location(latent, labels), self.log_scale).mean(), kl.mean()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        noise, _ = self.batch_normal(len(labels), batch_idx, self.noise_shape)
        log_likelihood, kl = self.evidence(images, labels, noise)
        loss = kl - log_likelihood
        self.log_train_loss(loss, reconstruction=-log_likelihood, kl=kl)
        return loss

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        noise, _ = self.batch_normal(len(labels), batch_idx, self.noise_shape)
        log_likelihood, kl = self.evidence(images, labels, noise)
        self.measure_variance(self(labels, noise), images, labels)
        return {"loss": kl - log_likelihood, "reconstruction": -log_likelihood, "kl": kl}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)
        return optimizer_and_schedule(self, optimizer, self.schedule, self.warmup_steps)
