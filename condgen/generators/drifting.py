"""Drifting: one network and one step as the DNN, no adversary as in a GAN: samples drift to where real images are.

The DNN's loss compares a drawn image with one real image, and so asks for the mean of them all. But in a step there are
many drawn and many real images of a label, and each drawn one can be told where to go: towards the real images that are
near it, and away from the drawn images that are near it. Where both are distributed alike, the two cancel, and it does
not move. Elsewhere it drifts: the network is asked for what it drew, moved (Deng et al. 2026, "Generative Modeling via
Drifting"). So samples move as those of a diffusion do, but while it trains, and to draw is one step.

In pixels any two images are about as far from each other as any others, so they drift in random convolutions too, which
see strokes. How far the samples are from where they ought to be is measured by the energy distance (Székely and Rizzo
2013), 2 E|drawn - real| - E|drawn - drawn'| - E|real - real'|: 0 where both have the same distribution, and larger
elsewhere. The drift itself cannot tell, as it is made the same length in every step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.errors import UsageError, check_number
from condgen.generators.dnn import DNNNetwork, with_label
from condgen.generators.ema import EMAGenerator
from condgen.nn.schedule import ScheduleName, optimizer_and_schedule


class Spaces(nn.Module):
    """What images drift in: pixels, and three layers of random convolutions, each at half the last one's side.

    Args:
        colours: channels of the images.
    """

    def __init__(self, colours: int) -> None:
        super().__init__()
        channels = (colours, 16, 32, 64)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size, stride=2, padding=kernel_size // 2)
            for (before, after), kernel_size in zip(itertools.pairwise(channels), (5, 3, 3), strict=True)
        )
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N, C, H, W) in [0, 1] to their features (N, D) in each of the four spaces."""
        features = [images.flatten(1)]
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.1)
            features.append(images.flatten(1))
        return features


def drift(drawn: Tensor, real: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Where drawn points (N, D) are to go, as there are real ones (M, D): (N, D).

    For each temperature they move by 1 in the root mean square.

    A drawn point is attracted by the real points and repelled by the other drawn ones, the more the nearer they are: by
    a softmax of distances over the temperature. There are two such weights, whose geometric mean is taken: of all that
    attracts and repels one point, and of all that one point attracts or repels. What attracts weighs as much as what
    repels, and the other way round, so that where both are distributed alike nothing moves but by chance.
    """
    to_real, to_drawn = torch.cdist(drawn, real), torch.cdist(drawn, drawn)
    to_drawn.fill_diagonal_(torch.inf)  # nothing repels itself
    distances = torch.cat((to_real, to_drawn), dim=1) / to_real.mean()
    moved = torch.zeros_like(drawn)
    for temperature in temperatures:
        nearness = -distances / temperature
        weights = (nearness.softmax(1) * nearness.softmax(0)).sqrt()
        attracting, repelling = weights[:, : len(real)], weights[:, len(real) :]
        pull = attracting * repelling.sum(1, keepdim=True)
        push = repelling * attracting.sum(1, keepdim=True)
        step = pull @ real - push @ drawn
        moved += step / step.square().sum(1).mean().sqrt().clamp(min=1e-12)
    return moved


def energy_distance(drawn: Tensor, real: Tensor) -> Tensor:
    """The energy distance of drawn points (N, D) and real ones (M, D): a scalar.

    It is estimated without bias, by the distances of all pairs, and so may be below 0.
    """

    def within(points: Tensor) -> Tensor:
        return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))

    return 2 * torch.cdist(drawn, real).mean() - within(drawn) - within(real)


class Drifting(EMAGenerator):
    """The article's network, whose samples drift; see the module.

    Args:
        latent_dim: size of the latent, uniform in [0, 1).
        num_classes: follows the data set.
        image_shape: (C, H, W), follows the data set.
        drawn: images that a step draws, over the real ones of its batch: to compare costs less than to draw.
        temperatures: what counts as near, over the mean distance of a drawn image to a real one.
        lr: learning rate of Adam.
        ema_decay: the most that the network that draws keeps of its weights in a step, where it takes the rest from the
            one that is trained. In step n it keeps (1 + n) / (10 + n), until that is more.
        schedule: what the learning rate does after the warm-up: stay, or fall to 0 over the run, in a straight line or
            like half a cosine.
        warmup_steps: steps over which the learning rate rises.
    """

    def __init__(
        self,
        latent_dim: int = 16,
        num_classes: int = 10,
        image_shape: Sequence[int] = (1, 28, 28),
        drawn: float = 0.25,
        temperatures: Sequence[float] = (0.02, 0.05, 0.2),
        lr: float = 1e-3,
        ema_decay: float = 0.999,
        schedule: ScheduleName = "cosine",
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(num_classes, image_shape)
        check_number("model.latent_dim", latent_dim, at_least=1, at_most=1_000_000)
        check_number("model.drawn", drawn, above=0, at_most=1)
        if not temperatures:
            raise UsageError("model.temperatures is []: give at least one number above 0.")
        for temperature in temperatures:
            check_number("model.temperatures", temperature, above=0)
        check_number("model.lr", lr, above=0)
        check_number("model.ema_decay", ema_decay, at_least=0, at_most=1)
        check_number("model.warmup_steps", warmup_steps, at_least=0)
        self.save_hyperparameters()
        self.latent_dim = latent_dim
        self.drawn, self.temperatures = drawn, tuple(temperatures)
        self.lr, self.schedule, self.warmup_steps = lr, schedule, warmup_steps
        self.set_network(DNNNetwork(latent_dim + num_classes, self.image_shape), ema_decay)
        self.spaces = Spaces(self.image_shape[0])

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.ema(with_label(noise, labels, self.num_classes))

    def sets(self, drawn: Tensor, of_drawn: Tensor, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The features of drawn images and those of real ones of the same label, space by space and label by label.

        They are in units of the real images' distances. A label of which there are not two of each is left out.

        Args:
            drawn: (N, C, H, W) in [0, 1].
            of_drawn: their labels (N,).
            images: real ones, (M, C, H, W) in [0, 1].
            labels: their labels (M,).
        """
        orders = [of.argsort(stable=True) for of in (of_drawn, labels)]
        numbers = [of.bincount(minlength=self.num_classes).tolist() for of in (of_drawn, labels)]
        for features, real in zip(self.spaces(drawn), self.spaces(images), strict=True):
            scale = real.var(0).sum().mul(2).sqrt().clamp(min=1e-6)
            of_labels = zip(
                (features / scale)[orders[0]].split(numbers[0]),
                (real / scale)[orders[1]].split(numbers[1]),
                strict=True,
            )
            yield from ((mine, theirs) for mine, theirs in of_labels if len(mine) > 1 and len(theirs) > 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        of_drawn = labels[: math.ceil(self.drawn * len(labels))]
        noise = self.batch_uniform(len(of_drawn), batch_idx, self.noise_shape)
        drawn = self.network(with_label(noise, of_drawn, self.num_classes)).float()
        loss, energies = 0 * drawn.sum(), []
        everyones = [self.of_all_processes(rows) for rows in (drawn, of_drawn, images, labels)]
        with torch.autocast(self.device.type, enabled=False):
            for features, real in self.sets(*everyones):
                now = features.detach()
                goal = now + drift(now, real, self.temperatures)
                loss = loss + (features - goal).square().sum() / len(drawn)
                energies.append(energy_distance(now, real))
        self.log_train_loss(torch.stack(energies).mean() if energies else loss)
        return loss

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        drawn = self(labels, self.batch_uniform(len(labels), batch_idx, self.noise_shape)).float()
        self.measure_variance(drawn, images, labels)
        with torch.autocast(self.device.type, enabled=False):
            energies = [energy_distance(*both) for both in self.sets(drawn, labels, images, labels)]
        return {"loss": torch.stack(energies).mean() if energies else 0 * drawn.sum()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr, betas=(0.5, 0.99), fused=True)
        return optimizer_and_schedule(self, optimizer, self.schedule, self.warmup_steps)
