"""DNN: a network trained to draw, from a label and a random latent, an image close to a real one of that label.

It is the article's first family and its first lesson. The loss compares each drawn image with *one* real image that
has nothing to do with the latent, so the best the network can do is to ignore the latent and draw the mean image of the
label: every 3 is the same blurred 3. ``val_loss`` comes to rest on ``val_loss_floor``, ``variance_ratio`` falls to 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.errors import UsageError, check_number
from condgen.generators.base import ConditionalGenerator
from condgen.nn.schedule import OptimizerName, ScheduleName, optimizer_and_schedule
from condgen.training.machine import amd_processor


class WideLinear(nn.Linear):
    """A linear layer of many outputs, which AMD's processors compute in 16 blocks of them.

    With a batch of 64 and PyTorch 2.14's matrix product on two AMD cores, a training step of the article's network
    takes 0.86 to 0.94 of the time that it takes with ``nn.Linear``; a layer of as many inputs instead would lose by it.
    On two Intel cores a step would take 1.06 to 1.09.
    """

    blocks = 16

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) to (N, out_features), a multiple of 16."""
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not amd_processor():
            return super().forward(x)
        weights = self.weight.view(self.blocks, -1, self.in_features)
        columns = x.t().expand(self.blocks, -1, -1)  # (16, in_features, N)
        return torch.baddbmm(self.bias.view(self.blocks, -1, 1), weights, columns).flatten(0, 1).t().contiguous()


class ThinConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution to few channels that doubles height and width.

    Where nothing is trained, a CPU computes it as a product of all weights with all pixels, which is what each pixel
    adds to the 4 by 4 of the image that it reaches, and ``fold``, which sums these windows where they overlap. From 64
    channels to 1, in batches of 64 on two Intel cores, it takes 0.3 of the time; a training step gains nothing.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, in_channels, H, W) to (N, out_channels, 2·H, 2·W)."""
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_grad_enabled():
            return super().forward(x)
        windows = self.weight.flatten(1).t() @ x.flatten(2)  # (N, out_channels·4·4, H·W)
        size = (2 * x.shape[2], 2 * x.shape[3])
        assert self.bias is not None
        return F.fold(windows, size, kernel_size=4, stride=2, padding=1) + self.bias[:, None, None]


class DNNNetwork(nn.Module):
    """The article's network: two linear layers, then two transposed convolutions that double height and width.

    Args:
        input_dim: latent size plus number of classes (72 in the article).
        image_shape: (C, H, W) of the image; H and W are multiples of 4.
    """

    def __init__(self, input_dim: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 4 or width % 4:
            raise UsageError(f"The network doubles twice: it cannot draw images of shape {tuple(image_shape)}.")
        self.coarse_shape = (128, height // 4, width // 4)
        coarse_dim = 128 * (height // 4) * (width // 4)
        self.fc = nn.Sequential(
            nn.Linear(input_dim, 1024),
            nn.BatchNorm1d(1024),
            nn.ReLU(),
            WideLinear(1024, coarse_dim),
            nn.BatchNorm1d(coarse_dim),
            nn.ReLU(),
        )
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(128, 64, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            ThinConvTranspose2d(64, channels),
            nn.Sigmoid(),
        )

    def forward(self, latent_and_label: Tensor) -> Tensor:
        """(N, input_dim) to (N, C, H, W) in [0, 1]."""
        x = self.fc(latent_and_label)  # (N, 128·H/4·W/4)
        x = x.view(-1, *self.coarse_shape)  # (N, 128, H/4, W/4)
        return self.deconv(x)  # (N, 64, H/2, W/2), then (N, C, H, W)


def with_label(latent: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Latents (N, latent_dim) and labels (N,) to the network's input (N, latent_dim + num_classes)."""
    return torch.cat((latent, F.one_hot(labels, num_classes).to(latent)), dim=1)


class DNN(ConditionalGenerator):
    """The article's DNN. Without arguments it is the article's model: 6,650,433 parameters, Adam at 1e-4.

    Args:
        latent_dim: size of the latent, uniform in [0, 1).
        num_classes: follows the data set.
        image_shape: (C, H, W), follows the data set.
        target_mean: the target is (image - ``target_mean``) / ``target_std``. The article takes MNIST's mean and
            standard deviation, although the network ends in a Sigmoid and so cannot reach most of that range; 0 and 1
            give plain [0, 1] targets.
        target_std: see ``target_mean``.
        optimizer: the optimiser's class in torch.optim.
        lr: learning rate.
        betas: how much the two averages of Adam and AdamW keep of themselves in a step: of the gradient, of its square.
        weight_decay: of the optimiser.
        schedule: what the learning rate does after the warm-up: stay, or fall to 0 over the run, in a straight line or
            like half a cosine.
        warmup_steps: steps over which the learning rate rises to ``lr``.
        label_gain: factor on the label's weights in the first layer, at the start. Batch normalisation follows, so that
            far above 1 the network begins by drawing from the label alone, which is where it ends.
        output_gain: factor on the last layer's weights, at the start. PyTorch sizes those of a transposed convolution
            for its outputs, 4·4 a pixel, instead of the 4·64 numbers that add up in a pixel; 0.25 makes good for it.
    """

    def __init__(
        self,
        latent_dim: int = 62,
        num_classes: int = 10,
        image_shape: Sequence[int] = (1, 28, 28),
        target_mean: float = 0.1307,
        target_std: float = 0.3081,
        optimizer: OptimizerName = "Adam",
        lr: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        schedule: ScheduleName = "constant",
        warmup_steps: int = 0,
        label_gain: float = 1.0,
        output_gain: float = 1.0,
    ) -> None:
        super().__init__(num_classes, image_shape)
        check_number("model.latent_dim", latent_dim, at_least=1, at_most=1_000_000)
        check_number("model.target_mean", target_mean)
        check_number("model.target_std", target_std, above=0)
        check_number("model.lr", lr, above=0)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UsageError(f"model.betas is {list(betas)}: give two numbers from 0 to below 1, such as [0.9, 0.999].")
        check_number("model.weight_decay", weight_decay, at_least=0)
        check_number("model.warmup_steps", warmup_steps, at_least=0)
        check_number("model.label_gain", label_gain, above=0)
        check_number("model.output_gain", output_gain, above=0)
        self.save_hyperparameters()
        self.latent_dim = latent_dim
        self.target_mean, self.target_std = target_mean, target_std
        self.optimizer_name, self.lr, self.betas, self.weight_decay = optimizer, lr, tuple(betas), weight_decay
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.network = DNNNetwork(latent_dim + num_classes, self.image_shape)
        first, last = self.network.fc[0], self.network.deconv[3]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, ThinConvTranspose2d)
        with torch.no_grad():
            first.weight[:, latent_dim:] *= label_gain
            last.weight *= output_gain

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.network(with_label(noise, labels, self.num_classes))

    def target(self, images: Tensor) -> Tensor:
        """Images in [0, 1], normalised: what the network is to draw."""
        return (images - self.target_mean) / self.target_std

    def loss(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error between the images drawn for the labels and the targets: a scalar."""
        return F.mse_loss(self(labels, noise), self.target(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = self.loss(images, labels, self.batch_uniform(len(labels), batch_idx, self.noise_shape))
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
        # the best image without a latent: the mean target of the label, as far as a Sigmoid reaches
        best = self.target(self.label_means).clamp(0, 1)[labels]
        return {"loss": loss, "loss_floor": F.mse_loss(best, target)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        settings = {} if self.optimizer_name == "SGD" else {"betas": self.betas}
        optimizer = getattr(torch.optim, self.optimizer_name)(
            self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True, **settings
        )
        return optimizer_and_schedule(self, optimizer, self.schedule, self.warmup_steps)
