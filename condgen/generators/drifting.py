"""Drifting: a one-step generator without a discriminator. Samples move toward the real images during training.

The DNN's loss compares a generated image to a single real image, which makes the mean image the best possible output.
Drifting instead compares many generated images to many real images with the same label. Each generated image is
attracted by nearby real images and repelled by nearby generated images. The two forces cancel out if both sets follow
the same distribution. Otherwise the sample drifts: we take one step in the direction of the combined force and use the
result as the network's target (Deng et al. 2026, "Generative Modeling via Drifting", arXiv:2602.04770). In a diffusion
model, this kind of movement happens while an image is being generated. Here it happens during training, so a single
network evaluation is enough to generate an image.

All images are about the same distance apart in pixel space, so we also compute the drift in the feature spaces of
random convolutions. The training loss does not tell you anything about progress since the drift is rescaled to the same
length in every step. We log the energy distance between samples and real images instead (Székely and Rizzo 2013,
"Energy statistics"), 2 E|fake - real| - E|fake - fake'| - E|real - real'|. It is 0 if both have the same distribution.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.errors import UsageError
from condgen.generators.dnn import DNNNetwork, with_label
from condgen.generators.ema import EMAGenerator
from condgen.generators.settings import NonNegativeInt, PositiveFloat, PositiveInt, Size, UnitInterval
from condgen.nn.schedule import ScheduleName, fused_group, with_schedule


class RandomFeatures(nn.Module):
    """Feature extractor that returns the raw pixels and the outputs of three stacked random convolutions.

    Args:
        channels: The number of image channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            (
                nn.Conv2d(channels, 16, kernel_size=5, stride=2, padding=2),
                nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
                nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),
            )
        )
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the features (N, D) of images (N, C, H, W) in [0, 1], one tensor per feature space."""
        features = [images.flatten(1)]
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.1)
            features.append(images.flatten(1))
        return features


def drift(fake: Tensor, real: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Computes the drift (N, D) of generated points, which is the sum of one step per temperature.

    Generated points are attracted by real points and repelled by other generated points. To get the weights, we divide
    the negative distances by the temperature and take the geometric mean of two softmaxes, one over all points acting
    on a generated point and one over all generated points that a point acts on. Attraction and repulsion have the same
    total weight, so points only move by chance if the two distributions match. Each step is scaled to a root mean
    square length of 1.

    Args:
        fake: Generated points of shape (N, D).
        real: Real points of shape (M, D).
        temperatures: Softmax temperatures, relative to the mean distance from generated to real points.
    """
    to_real, to_fake = torch.cdist(fake, real), torch.cdist(fake, fake)
    to_fake.fill_diagonal_(torch.inf)  # points do not repel themselves
    distances = torch.cat((to_real, to_fake), dim=1) / to_real.mean()
    total = torch.zeros_like(fake)
    for temperature in temperatures:
        logits = -distances / temperature
        weights = (logits.softmax(1) * logits.softmax(0)).sqrt()
        attraction, repulsion = weights[:, : len(real)], weights[:, len(real) :]
        pull = attraction * repulsion.sum(1, keepdim=True)
        push = repulsion * attraction.sum(1, keepdim=True)
        step = pull @ real - push @ fake
        total += step / step.square().sum(1).mean().sqrt().clamp(min=1e-12)
    return total


def energy_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Estimates the energy distance between points (N, D) and (M, D). Unbiased, so it can be negative."""

    def mean_distance(points: Tensor) -> Tensor:
        return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))

    return 2 * torch.cdist(fake, real).mean() - mean_distance(fake) - mean_distance(real)


class Drifting(EMAGenerator):
    """One-step generator that trains the network from the article by drifting.

    See the module docstring for how it works.

    Args:
        latent_dim: Latent size. Latents are uniform in [0, 1).
        num_classes: The number of classes. Inferred from the dataset when using the command line.
        image_shape: Image shape (C, H, W). Inferred from the dataset when using the command line.
        fake_ratio: How many images to generate per real image in the batch. Values below 1 save time, since generating
            an image takes longer than comparing it.
        temperatures: Softmax temperatures, relative to the mean distance from generated to real images.
        lr: Learning rate for Adam.
        ema_decay: Decay for the EMA weights, which are used for sampling.
        schedule: Learning-rate schedule after the warm-up. Either constant, or linear or cosine decay to 0.
        warmup_steps: The number of steps for the linear learning-rate warm-up.
    """

    def __init__(
        self,
        latent_dim: Size = 16,
        num_classes: PositiveInt = 10,
        image_shape: Sequence[PositiveInt] = (1, 28, 28),
        fake_ratio: UnitInterval = 0.25,
        temperatures: Sequence[PositiveFloat] = (0.02, 0.05, 0.2),
        lr: PositiveFloat = 1e-3,
        ema_decay: UnitInterval = 0.999,
        schedule: ScheduleName = "cosine",
        warmup_steps: NonNegativeInt = 100,
    ) -> None:
        super().__init__(num_classes, image_shape)
        self.save_hyperparameters()
        if not temperatures:
            raise UsageError("model.temperatures is []. Use at least one number above 0.")
        if not fake_ratio:
            raise UsageError("model.fake_ratio is 0. Use a number above 0, at most 1.")
        self.set_network(DNNNetwork(latent_dim + num_classes, self.image_shape), ema_decay)
        self.features = RandomFeatures(self.image_shape[0])

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.hparams.latent_dim,)

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.ema(with_label(noise, labels, self.num_classes))

    def feature_sets(
        self, fake: Tensor, fake_labels: Tensor, real: Tensor, real_labels: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the features of the generated and real images of each label, in each feature space.

        Features are divided by the root mean square distance between two real images. Labels with fewer than two
        generated or real images are skipped.

        Args:
            fake: Generated images of shape (N, C, H, W) in [0, 1].
            fake_labels: Labels of the generated images, of shape (N,).
            real: Real images of shape (M, C, H, W) in [0, 1].
            real_labels: Labels of the real images, of shape (M,).
        """
        fake_order, real_order = fake_labels.argsort(stable=True), real_labels.argsort(stable=True)
        fake_counts, real_counts = (
            labels.bincount(minlength=self.num_classes).tolist() for labels in (fake_labels, real_labels)
        )
        for fake_features, real_features in zip(self.features(fake), self.features(real), strict=True):
            scale = real_features.var(0).sum().mul(2).sqrt().clamp(min=1e-6)
            fakes = (fake_features / scale)[fake_order].split(fake_counts)
            reals = (real_features / scale)[real_order].split(real_counts)
            yield from (pair for pair in zip(fakes, reals, strict=True) if min(map(len, pair)) > 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        real, labels = batch
        fake_labels = labels[: math.ceil(self.hparams.fake_ratio * len(labels))]
        noise = self.batch_uniform(len(fake_labels), batch_idx, self.noise_shape)
        fake = self.network(with_label(noise, fake_labels, self.num_classes)).float()
        loss, energies = 0 * fake.sum(), []  # has a gradient even if there is nothing to compare
        global_batch = [self.of_all_processes(rows) for rows in (fake, fake_labels, real, labels)]
        with torch.autocast(self.device.type, enabled=False):
            for fake_features, real_features in self.feature_sets(*global_batch):
                start = fake_features.detach()
                target = start + drift(start, real_features, self.hparams.temperatures)
                loss = loss + (fake_features - target).square().sum() / len(fake)
                energies.append(energy_distance(start, real_features))
        self.log_train_loss(torch.stack(energies).mean() if energies else loss)
        if self.global_step == 0:
            spaces = 1 + len(self.features.layers)
            self.warn_about_small_labels(len(energies) // spaces, len(global_batch[3].unique()))
        return loss

    def warn_about_small_labels(self, compared: int, found: int) -> None:
        """Warns if only some of the labels found in a batch have enough images to be compared."""
        if compared < found:
            rank_zero_warn(
                f"Drifting compares images of the same label, but the first batch has two or more generated and real "
                f"images of only {compared} of its {found} labels. Increase data.batch_size or data.images_per_class."
            )

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        fake = self(labels, self.batch_uniform(len(labels), batch_idx, self.noise_shape)).float()
        self.measure_variance(fake, images, labels)
        with torch.autocast(self.device.type, enabled=False):
            energies = [energy_distance(*pair) for pair in self.feature_sets(fake, labels, images, labels)]
        return {"loss": torch.stack(energies).mean() if energies else 0 * fake.sum()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam([fused_group(self.network.parameters(), lr=self.hparams.lr)], betas=(0.5, 0.99))
        return with_schedule(optimizer, self, self.hparams.schedule, self.hparams.warmup_steps)
