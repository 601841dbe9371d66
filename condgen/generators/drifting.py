"""Drifting: a one-step generator without a discriminator. Its samples move towards the real images during training.

The DNN's loss compares a generated image with one real image, so the best output is the mean of all real images of the
label. Drifting instead compares many generated images with many real images of the same label. Each generated image is
attracted by the real images near it and repelled by the generated images near it. If both sets have the same
distribution, attraction and repulsion cancel. Otherwise the sample drifts: the target of the network is the generated
image after one step in the direction of the sum of both forces (Deng et al. 2026, "Generative Modeling via Drifting",
arXiv:2602.04770). In a diffusion model, samples move in this way when an image is generated. Here they move during
training, so that generating an image needs only one evaluation of the network.

In pixel space, all distances between two images are similar. Therefore images also drift in the feature spaces of
random convolutions. The training loss does not measure progress, because the drift is scaled to the same length in
every step. Therefore the logged losses are the energy distance between samples and real images (Székely and Rizzo 2013,
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
    """Feature extractor of the drift. It returns the pixels and the outputs of three random convolutions.

    Each convolution halves the resolution and is applied to the output of the previous one.

    Args:
        channels: Number of channels of the images.
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
        """Computes the features (N, D) of images (N, C, H, W) in [0, 1] in each of the four feature spaces."""
        features = [images.flatten(1)]
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.1)
            features.append(images.flatten(1))
        return features


def drift(fake: Tensor, real: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Computes the drift of generated points, with shape (N, D). It is the sum of one step per temperature.

    A generated point is attracted by the real points and repelled by the other generated points. The weights of these
    forces are computed from the negative distances, divided by the temperature. They are the geometric mean of two
    softmaxes: one over all points that act on a generated point, and one over all generated points on which a point
    acts. Attraction and repulsion have the same total weight. So if both distributions are equal, points move only by
    chance. Each step is scaled to a root mean square length of 1.

    Args:
        fake: Generated points, with shape (N, D).
        real: Real points, with shape (M, D).
        temperatures: Temperatures of the softmaxes, in units of the mean distance from generated to real points.
    """
    to_real, to_fake = torch.cdist(fake, real), torch.cdist(fake, fake)
    to_fake.fill_diagonal_(torch.inf)  # a point does not repel itself
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
    """Estimates the energy distance between generated points (N, D) and real points (M, D), a scalar.

    The estimate is unbiased, so it can be negative.
    """

    def mean_distance(points: Tensor) -> Tensor:
        return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))

    return 2 * torch.cdist(fake, real).mean() - mean_distance(fake) - mean_distance(real)


class Drifting(EMAGenerator):
    """One-step generator with the network of the article, trained by drifting.

    See the module docstring for the method.

    Args:
        latent_dim: Size of the latent, which is uniform in [0, 1).
        num_classes: Number of classes. The command line takes it from the data set.
        image_shape: Shape (C, H, W) of the images. The command line takes it from the data set.
        fake_ratio: Number of generated images per real image of a batch. A value below 1 saves time, because it takes
            longer to generate an image than to compare it.
        temperatures: Temperatures of the softmaxes, in units of the mean distance from generated to real images.
        lr: Learning rate of Adam.
        ema_decay: Decay of the EMA weights, which are used for sampling.
        schedule: Learning-rate schedule after the warm-up: constant, or linear or cosine decay to 0.
        warmup_steps: Number of steps of the linear learning-rate warm-up.
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
        """Yields the features of the generated and the real images of a label, for each feature space and label.

        The features of a space are divided by the root mean square distance between two real images. A label is
        omitted if it has fewer than two generated or fewer than two real images.

        Args:
            fake: Generated images in [0, 1], with shape (N, C, H, W).
            fake_labels: Labels of the generated images, with shape (N,).
            real: Real images in [0, 1], with shape (M, C, H, W).
            real_labels: Labels of the real images, with shape (M,).
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
        loss, energies = 0 * fake.sum(), []  # has a gradient even if no label has two images
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
        """Warns if some labels of a batch cannot be compared, because they have too few images.

        Args:
            compared: Number of labels with at least two generated and two real images.
            found: Number of all labels in the batch.
        """
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
