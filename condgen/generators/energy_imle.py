"""EnergyIMLE: one network and one step as the DNN, no adversary as in a GAN: sets of images are compared.

The DNN's loss compares a drawn image with one real image, and so asks for their mean. But a label has many drawn and
many real images, and whether the first look as if they were from among the second is a number, too: the energy distance
(Székely and Rizzo 2013),

    2 E|drawn - real|  -  E|drawn - drawn'|  -  E|real - real'|,

is 0 where both have the same distribution, and larger elsewhere. Its first part draws images to the real ones, its
second keeps them away from each other: without it they would all become the mean again. Measured in pixels it tells
little, as any two images are about as far from each other as any others; so it is measured in random convolutions too,
which see strokes.

Its pull is a mean over all of the label's images, and therefore slow to find any one of them. Implicit maximum
likelihood (IMLE; Li and Malik 2018) asks the other way round, for each real image: which of a thousand drawn ones is
the nearest? That one is drawn closer. So no real image is forgotten, but those that share a nearest one are averaged,
which blurs, and leaves samples too much alike. Each of the two mends the other's fault.

The larger a set is, the more it tells of its distribution. Therefore a step compares images of a few labels only, but
many of each, and the next step those of others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.errors import check_number
from condgen.generators.base import AveragedGenerator, ScheduleName, optimizer_and_schedule
from condgen.generators.dnn import DNNNetwork, with_label
from condgen.noise import CANDIDATES, uniform


class Spaces(nn.Module):
    """What images are compared in: pixels, and three layers of random convolutions, each at half the last one's side.

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


def energy_distance(drawn: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """The energy distance of drawn and real features (N, D) of the same labels (N,), within labels: a scalar.

    It is estimated without bias, by the distances of all pairs, and so may be below 0. A label with one image has none.
    """
    same = labels[:, None] == labels
    number = same.sum(1, keepdim=True)
    other = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    across = 2 * torch.cdist(drawn, real) * same / number
    within = (torch.cdist(drawn, drawn) + torch.cdist(real, real)) * other / (number - 1).clamp(min=1)
    paired = number > 1
    return ((across - within) * paired).sum() / paired.sum().clamp(min=1)


class EnergyIMLE(AveragedGenerator):
    """The article's network, trained on sets; see the module.

    Args:
        latent_dim: size of the latent, uniform in [0, 1).
        num_classes: follows the data set.
        image_shape: (C, H, W), follows the data set.
        matching: weight of IMLE beside the energy distance.
        candidates: of each label, among which each real image finds its nearest.
        steps_per_draw: for how many steps the candidates are used before they are drawn anew.
        share: of a batch, and so of the labels, that a step takes; the rest of the batch is left out.
        lr: learning rate of Adam.
        averaging: what the network that draws keeps of its weights in a step, where it takes the rest from the one that
            is trained.
        schedule: what the learning rate does after the warm-up: stay, or fall to 0 over the run like half a cosine.
        warmup_steps: steps over which the learning rate rises.
    """

    def __init__(
        self,
        latent_dim: int = 16,
        num_classes: int = 10,
        image_shape: Sequence[int] = (1, 28, 28),
        matching: float = 0.15,
        candidates: int = 1000,
        steps_per_draw: int = 150,
        share: float = 0.4,
        lr: float = 1e-3,
        averaging: float = 0.999,
        schedule: ScheduleName = "cosine",
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(num_classes, image_shape)
        check_number("model.latent_dim", latent_dim, at_least=1, at_most=1_000_000)
        check_number("model.matching", matching, at_least=0)
        check_number("model.candidates", candidates, at_least=1, at_most=100_000)
        check_number("model.steps_per_draw", steps_per_draw, at_least=1)
        check_number("model.share", share, above=0, at_most=1)
        check_number("model.lr", lr, above=0)
        check_number("model.averaging", averaging, at_least=0, at_most=1)
        check_number("model.warmup_steps", warmup_steps, at_least=0)
        self.save_hyperparameters()
        self.latent_dim = latent_dim
        self.matching, self.steps_per_draw, self.share = matching, steps_per_draw, share
        self.lr, self.schedule, self.warmup_steps = lr, schedule, warmup_steps
        self.set_network(DNNNetwork(latent_dim + num_classes, self.image_shape), averaging)
        self.spaces = Spaces(self.image_shape[0])
        # In checkpoints, for a run that is resumed between two draws.
        self.candidate_latents: Tensor
        self.candidate_views: Tensor
        self.register_buffer("candidate_latents", torch.zeros(num_classes * candidates, latent_dim))
        view = self.view(torch.zeros(num_classes * candidates, *self.image_shape))
        self.register_buffer("candidate_views", view)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def generate(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.averaged(with_label(noise, labels, self.num_classes))

    @staticmethod
    def view(images: Tensor) -> Tensor:
        """What the nearest is found by: images (N, C, H, W) at half their side, (N, C·H/2·W/2)."""
        return F.avg_pool2d(images, 2).flatten(1)

    @property
    def candidate_labels(self) -> Tensor:
        return torch.arange(len(self.candidate_latents), device=self.device) % self.num_classes

    @torch.no_grad()
    def draw_candidates(self, batch_idx: int) -> None:
        numbers, step = range(len(self.candidate_latents)), (batch_idx, self.current_epoch)
        latents = uniform(self.run_seed, numbers, self.noise_shape, stream=CANDIDATES, step=step)
        self.candidate_latents.copy_(latents)
        self.averaged.eval()
        parts = (self.candidate_labels, self.candidate_latents, self.candidate_views)
        for labels, noise, views in zip(*(part.split(500) for part in parts), strict=True):
            views.copy_(self.view(self.generate(labels, noise).float()))

    def nearest_latents(self, images: Tensor, labels: Tensor) -> Tensor:
        """For each image (N, C, H, W) the latent of the nearest of its label's candidates: (N, latent_dim)."""
        distances = torch.cdist(self.view(images), self.candidate_views)
        distances[self.candidate_labels != labels[:, None]] = torch.inf
        return self.candidate_latents[distances.argmin(1)]

    def compared(self, images: Tensor, *drawn: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The features (N, D) of real images and of each kind of drawn ones (N, C, H, W), space by space, in units of
        the real images' distances."""
        for features in self.spaces(torch.cat((images, *drawn))):
            real = features[: len(images)]
            scale = torch.cdist(real, real).square().mean().sqrt()
            yield (features / scale).chunk(1 + len(drawn))

    def losses(self, images: Tensor, labels: Tensor, fresh: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor]:
        """Energy distance of real and freshly drawn images (N, C, H, W), and mean distance of each real image to the
        one drawn nearest to it: the means over the spaces."""
        energies, distances = [], []
        for real, drawn, near in self.compared(images, fresh, nearest):
            energies.append(energy_distance(drawn, real, labels))
            distances.append((near - real).norm(dim=1).mean())
        return torch.stack(energies).mean(), torch.stack(distances).mean()

    def of_few_labels(self, images: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """The images (N, C, H, W) and labels (N,) of a batch that its step takes: all of some labels, which follow on
        those of the step before, and a part of one more."""
        first = round(batch_idx * self.share * self.num_classes)
        turn = (labels - first) % self.num_classes
        rows = turn.argsort(stable=True)[: math.ceil(self.share * len(labels))]
        return images[rows], labels[rows]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = self.of_few_labels(*batch, batch_idx)
        if batch_idx % self.steps_per_draw == 0:
            self.draw_candidates(batch_idx)
        noise = self.batch_uniform(len(labels), batch_idx, self.noise_shape)
        fresh = self.network(with_label(noise, labels, self.num_classes)).float()
        near = self.network(with_label(self.nearest_latents(images, labels), labels, self.num_classes)).float()
        with torch.autocast(self.device.type, enabled=False):
            energy, matching = self.losses(images, labels, fresh, near)
        self.log_train_loss(energy)
        self.log("train_matching", matching)
        return energy + self.matching * matching

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        drawn = self.generate(labels, self.batch_uniform(len(labels), batch_idx, self.noise_shape)).float()
        self.measure_variance(drawn, images, labels)
        energies = [energy_distance(features, real, labels) for real, features in self.compared(images, drawn)]
        return {"loss": torch.stack(energies).mean()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr, fused=True)
        return optimizer_and_schedule(self, optimizer, self.schedule, self.warmup_steps)
