"""DNN: maps a label and a random latent to an image. Trained with mean squared error.

This is the first model in the article, and it shows why we need the other ones. The loss compares each generated image
to *one* real image with the same label, but the latent does not tell the network anything about that image. The best it
can do is to ignore the latent and generate the mean image for the label, so every 3 turns into the same blurry 3.
``val_loss`` converges to ``val_loss_floor`` and ``variance_ratio`` converges to 0.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.errors import UsageError
from condgen.generators.base import ConditionalGenerator
from condgen.generators.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Size, UnitInterval
from condgen.nn.labels import one_hot
from condgen.nn.schedule import ScheduleName, fused_group, with_schedule


class DNNNetwork(nn.Module):
    """The article's network: two linear layers, then two transposed convolutions that each double the resolution.

    Args:
        input_dim: Latent size plus the number of classes (72 in the article).
        image_shape: Image shape (C, H, W). H and W must be multiples of 4.

    Raises:
        UsageError: If H or W is not a multiple of 4.
    """

    def __init__(self, input_dim: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 4 or width % 4:
            raise UsageError(f"model.image_shape is {list(image_shape)}. Use a height and width divisible by 4.")
        self.coarse_shape = (128, height // 4, width // 4)
        coarse_dim = 128 * (height // 4) * (width // 4)
        self.fc = nn.Sequential(
            nn.Linear(input_dim, 1024),
            nn.BatchNorm1d(1024),
            nn.ReLU(),
            nn.Linear(1024, coarse_dim),
            nn.BatchNorm1d(coarse_dim),
            nn.ReLU(),
        )
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(128, 64, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, channels, kernel_size=4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latent_and_label: Tensor) -> Tensor:
        """Maps latents with one-hot labels (N, input_dim) to images (N, C, H, W) in [0, 1]."""
        x = self.fc(latent_and_label)  # (N, 128·H/4·W/4)
        x = x.view(-1, *self.coarse_shape)  # (N, 128, H/4, W/4)
        return self.deconv(x)  # (N, 64, H/2, W/2), then (N, C, H, W)


def with_label(latent: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Appends one-hot labels or class weights to (N, latent_dim). Returns (N, latent_dim + num_classes)."""
    return torch.cat((latent, one_hot(labels, num_classes).to(latent)), dim=1)


class DNN(ConditionalGenerator):
    """The DNN from the article.

    The defaults are the settings from the article, with 6,650,433 parameters and Adam with a learning rate of 1e-4.

    Args:
        latent_dim: Latent size. Latents are uniform in [0, 1).
        num_classes: The number of classes. Inferred from the dataset when using the command line.
        image_shape: Image shape (C, H, W). Inferred from the dataset when using the command line.
        target_mean: The mean for normalizing targets, (image - ``target_mean``) / ``target_std``. The article uses the
            mean and standard deviation of MNIST, even though the network ends in a Sigmoid and cannot reach most of the
            resulting range. Use a mean of 0 and a standard deviation of 1 to get targets in [0, 1].
        target_std: The standard deviation for normalizing targets, see ``target_mean``.
        optimizer: Name of an optimizer class in torch.optim.
        lr: Learning rate.
        betas: Betas for Adam and AdamW.
        weight_decay: Weight decay.
        schedule: Learning-rate schedule after the warm-up. Either constant, or linear or cosine decay to 0.
        warmup_steps: The number of steps for the linear learning-rate warm-up.
        label_gain: Scales the initial label weights in the first layer. This layer is followed by batch norm, so with a
            value far above 1 the output depends almost entirely on the label right from the start, as it does at the
            end of training.
        output_gain: Scales the initial weights of the last layer. PyTorch initializes transposed convolutions as if
            each pixel were a sum of 4·4 numbers, but it is a sum of 4·64 numbers. Use 0.25 to correct for this.
    """

    def __init__(
        self,
        latent_dim: Size = 62,
        num_classes: PositiveInt = 10,
        image_shape: Sequence[PositiveInt] = (1, 28, 28),
        target_mean: float = 0.1307,
        target_std: PositiveFloat = 0.3081,
        optimizer: Literal["Adam", "AdamW", "SGD"] = "Adam",
        lr: PositiveFloat = 1e-4,
        betas: Sequence[UnitInterval] = (0.9, 0.999),
        weight_decay: NonNegativeFloat = 0.0,
        schedule: ScheduleName = "constant",
        warmup_steps: NonNegativeInt = 0,
        label_gain: PositiveFloat = 1.0,
        output_gain: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(num_classes, image_shape)
        self.save_hyperparameters()
        if len(betas) != 2 or max(betas) == 1:
            raise UsageError(f"model.betas is {list(betas)}. Use two numbers below 1, such as [0.9,0.999].")
        self.network = DNNNetwork(latent_dim + num_classes, self.image_shape)
        first, last = self.network.fc[0].get_parameter("weight"), self.network.deconv[3].get_parameter("weight")
        with torch.no_grad():
            first[:, latent_dim:].mul_(label_gain)
            last.mul_(output_gain)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.hparams.latent_dim,)

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.network(with_label(noise, labels, self.num_classes))

    def target(self, images: Tensor) -> Tensor:
        """Normalizes images in [0, 1] to get the training target."""
        return (images - self.hparams.target_mean) / self.hparams.target_std

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        noise = self.batch_uniform(len(labels), batch_idx, self.noise_shape)
        loss = F.mse_loss(self(labels, noise), self.target(images))
        self.log_train_loss(loss)
        return loss

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        generated = self(labels, self.batch_uniform(len(labels), batch_idx, self.noise_shape)).float()
        self.measure_variance(generated, images, labels)
        target = self.target(images)
        loss = F.mse_loss(generated, target)
        if self.label_means is None:
            return {"loss": loss}
        # The best generator that ignores its latent: the mean target of the label, clipped to the Sigmoid's range.
        best = self.target(self.label_means).clamp(0, 1)[labels]
        return {"loss": loss, "loss_floor": F.mse_loss(best, target)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        h = self.hparams
        betas = {} if h.optimizer == "SGD" else {"betas": tuple(h.betas)}
        group = fused_group(self.parameters(), lr=h.lr, weight_decay=h.weight_decay, **betas)
        optimizer = getattr(torch.optim, h.optimizer)([group])
        return with_schedule(optimizer, self, h.schedule, h.warmup_steps)
