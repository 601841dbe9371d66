"""Diffusion: a network that learns to remove noise, and generates an image from pure noise, step by step.

Asked for a digit in one step, the DNN answers with the mean of all digits, because that is the best single answer. Here
the question is easier: which digit is this, with some noise added? The best answer is again a mean, but only over the
digits that could have become this noisy image. Move a small step towards it and ask again, and fewer digits remain.
Without noise one is left, and which one depends on the noise at the start.

There are two objectives for the same network. ``flow`` is rectified flow (Liu et al. 2022, arXiv:2209.03003; Lipman et
al. 2022, arXiv:2210.02747): a straight path, and the network predicts the velocity. ``noise`` is DDPM (Ho et al. 2020,
arXiv:2006.11239), sampled by DDIM (Song et al. 2020, arXiv:2010.02502): the network predicts the noise. All samplers
are deterministic, so that the noise determines the image.

Two additions to the plain method can be turned off:

- ``posterior_images``: if sigma_t > alpha_t, the target is the posterior mean over the latest training images (Xu et
  al. 2023, arXiv:2302.00670), which estimates the same target with less variance.
- ``mismatched_labels``: the posterior mean is known for *every* label. So the network also trains on noisy images of
  one label with another label that is plausible. Such pairs occur while sampling; a network that has never seen them
  mistakes a shape like a 9 for an odd 4.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.errors import UsageError
from condgen.generators.ema import EMAGenerator
from condgen.generators.settings import (
    Count,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Size,
    UnitInterval,
)
from condgen.nn.muon import Muon
from condgen.nn.paths import Path, RectifiedFlow, VariancePreserving
from condgen.nn.posterior import EmpiricalPosterior
from condgen.nn.schedule import ScheduleName, with_schedule
from condgen.nn.solvers import Model, ddim, euler, heun, multistep
from condgen.nn.unet import UNet
from condgen.noise import Distribution

SOLVERS = {"multistep": multistep, "heun": heun, "euler": euler}


class Diffusion(EMAGenerator):
    """A conditional diffusion or rectified flow with a small U-Net; see the module.

    Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) extrapolates from the prediction without a label
    through the one with it: samples are clearer, and less diverse. It helps at middle noise levels; at high ones it
    reduces the diversity, and at low ones it has little effect (Kynkäänniemi et al. 2024, "Applying Guidance in a
    Limited Interval Improves Sample and Distribution Quality in Diffusion Models", arXiv:2404.07724).

    ``sampling_steps``, ``solver``, ``guidance`` and ``guidance_interval`` can be changed after training.

    Args:
        num_classes: follows the data set.
        image_shape: (C, H, W), follows the data set.
        unet_channels: of the U-Net at half and at a quarter of the image's resolution, multiples of 8.
        objective: ``flow`` predicts the velocity of rectified flow, ``noise`` the noise of DDPM, sampled by DDIM.
        sampling_steps: steps from noise to image.
        solver: of ``flow``: ``multistep`` (second order, one evaluation a step), ``heun`` (second order, two
            evaluations) or ``euler``.
        guidance: scale of classifier-free guidance; 1 for none.
        guidance_interval: where guidance applies, as the image's fraction alpha_t / (alpha_t + sigma_t), from 0 (noise)
            to 1 (image). For ``flow`` these are the times.
        label_dropout: probability that the label is hidden in training, which guidance needs.
        posterior_images: number of the latest training images over which the posterior-mean target is computed; 0 turns
            it off.
        mismatched_labels: also train on plausible labels other than the image's. Needs ``posterior_images``.
        convolution_lr: learning rate of Muon, which trains the weights of all convolutions but the last.
        lr: learning rate of AdamW, which trains all other weights.
        weight_decay: weight decay of AdamW.
        ema_decay: decay of the EMA weights that are used for sampling.
        schedule: learning-rate schedule after the warm-up: constant, or linear or cosine decay to 0.
        warmup_steps: steps of linear learning-rate warm-up.
    """

    fixed_by_training = ("objective",)

    def __init__(
        self,
        num_classes: PositiveInt = 10,
        image_shape: Sequence[PositiveInt] = (1, 28, 28),
        unet_channels: Sequence[Size] = (64, 112),
        objective: Literal["flow", "noise"] = "flow",
        sampling_steps: Count = 6,
        solver: Literal["multistep", "heun", "euler"] = "multistep",
        guidance: NonNegativeFloat = 1.2,
        guidance_interval: Sequence[UnitInterval] = (0.1, 0.5),
        label_dropout: UnitInterval = 0.05,
        posterior_images: Count = 4096,
        mismatched_labels: bool = True,
        convolution_lr: PositiveFloat = 0.03,
        lr: PositiveFloat = 2e-3,
        weight_decay: NonNegativeFloat = 0.01,
        ema_decay: UnitInterval = 0.9995,
        schedule: ScheduleName = "linear",
        warmup_steps: NonNegativeInt = 100,
    ) -> None:
        super().__init__(num_classes, image_shape)
        self.save_hyperparameters()
        if len(unet_channels) != 2 or any(number % 8 for number in unet_channels):
            raise UsageError(f"model.unet_channels is {list(unet_channels)}: give two multiples of 8.")
        if not sampling_steps:
            raise UsageError("model.sampling_steps is 0: give 1 or more.")
        if len(guidance_interval) != 2 or guidance_interval[0] > guidance_interval[1]:
            raise UsageError(f"model.guidance_interval is {list(guidance_interval)}: give two rising numbers.")
        self.path: Path = RectifiedFlow() if objective == "flow" else VariancePreserving()
        self.set_network(UNet(self.image_shape, num_classes, unet_channels), ema_decay)
        if posterior_images:
            self.posterior = EmpiricalPosterior(posterior_images, self.image_shape, num_classes)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.image_shape

    @property
    def noise_distribution(self) -> Distribution:
        return "normal"

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Returns a network's prediction of the path's target, for x_t (N, C, H, W) at t (N,) or (), and labels
        (N,)."""
        c_skip, c_out, c_in = self.path.preconditioning(t)
        return c_skip * x_t + c_out * network(c_in * x_t, t, labels).float()

    # Training.

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        x = 2 * images - 1
        noise, t, uniform = self.noise_and_times(len(labels), batch_idx)
        x_t = self.path.add_noise(x, noise, t)
        condition = torch.where(uniform[:, 0] < self.hparams.label_dropout, self.num_classes, labels)
        target = own_target = self.path.target(x, noise)
        if self.hparams.posterior_images:
            condition, target = self.posterior_target(x, noise, t, labels, condition, uniform[:, 1:])
            self.posterior.add(self.of_all_processes(x), self.of_all_processes(labels))
        prediction = self.predict(self.network, x_t, t, condition)
        # train_loss is comparable to val_loss: the images' own targets, without mismatched labels
        is_own = (condition == labels) | (condition == self.num_classes)
        error = (prediction.detach() - own_target).square().flatten(1).mean(1)
        self.log_train_loss((is_own * error).sum() / is_own.sum().clamp(min=1))
        return F.mse_loss(prediction, target)

    def noise_and_times(self, rows: int, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise (N, C, H, W) for a batch of N rows, times (N,), and uniform numbers (N, 1 + num_classes)."""
        size = math.prod(self.image_shape)
        normal, uniform = self.batch_normal(rows, batch_idx, (size + 1,), extra_uniform=1 + self.num_classes)
        return normal[:, 1:].view(rows, *self.image_shape), self.path.training_times(normal[:, 0]), uniform

    @torch.no_grad()
    def posterior_target(
        self, x: Tensor, noise: Tensor, t: Tensor, labels: Tensor, condition: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Conditions (N,) and targets (N, C, H, W), from the posterior p(x, label | x_t) if sigma_t > alpha_t.

        With less noise, nearly all of the posterior is on the image itself: condition and target stay its own.

        Args:
            x: images (N, C, H, W) in [-1, 1].
            noise: (N, C, H, W).
            t: (N,).
            labels: (N,), of the images.
            condition: (N,), the label or the null label.
            uniform: numbers (N, num_classes) in [0, 1) that determine the mismatched labels.
        """
        alpha_t, sigma_t = self.path.coefficients(t)
        is_noisy, x_t = sigma_t > alpha_t, self.path.add_noise(x, noise, t)
        log_likelihood = self.posterior.log_likelihood(x_t, x, alpha_t, sigma_t)
        if self.hparams.mismatched_labels:
            plausible = self.posterior.sample_labels(log_likelihood, uniform)
            is_mismatched = is_noisy & (condition == labels) & (self.posterior.added > 0)
            condition = torch.where(is_mismatched, plausible, condition)
        mean = self.posterior.mean(log_likelihood, x, labels, condition)
        mean_target = self.path.target(mean, self.path.noise(x_t, mean, t))
        return condition, torch.where(is_noisy[:, None, None, None], mean_target, self.path.target(x, noise))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        h = self.hparams
        *inner, _ = (part for part in self.network.modules() if isinstance(part, nn.Conv2d))
        matrices = [convolution.weight for convolution in inner]
        ids = {id(matrix) for matrix in matrices}
        others = [weights for weights in self.network.parameters() if id(weights) not in ids]
        optimizer = Muon(matrices, others, h.convolution_lr, h.lr, (0.9, 0.99), h.weight_decay)
        return with_schedule(optimizer, self, h.schedule, h.warmup_steps)

    # Validation.

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        noise, t, _ = self.noise_and_times(len(labels), batch_idx)
        batches = self.trainer.num_test_batches if self.trainer.testing else self.trainer.num_val_batches
        if batch_idx % max(1, int(sum(batches)) // 10) == 0:  # sampling costs ten times as much as the loss
            some = slice(max(1, 32 // self.trainer.world_size))
            self.measure_variance(self(labels[some], noise[some]), images[some], labels[some])
        x = 2 * images - 1
        prediction = self.predict(self.ema, self.path.add_noise(x, noise, t), t, labels)
        return {"loss": F.mse_loss(prediction, self.path.target(x, noise))}

    # Sampling.

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        no_label = torch.full_like(labels, self.num_classes)

        def model(x_t: Tensor, t: float) -> Tensor:
            time = x_t.new_full((), t)
            if not self.is_guided(t):
                return self.predict(self.ema, x_t, time, labels)
            both = self.predict(self.ema, x_t.repeat(2, 1, 1, 1), time, torch.cat((labels, no_label)))
            conditional, unconditional = both.unflatten(0, (2, -1))  # chunk would fix an export's batch size
            return unconditional + self.hparams.guidance * (conditional - unconditional)

        return (self.solve(model, noise) / 2 + 0.5).clamp(0, 1)

    def solve(self, model: Model, noise: Tensor) -> Tensor:
        """Noise (N, C, H, W) to images in [-1, 1], in ``sampling_steps`` equal steps of the solver."""
        steps = self.hparams.sampling_steps
        times = [step / steps for step in range(steps + 1)]
        if self.hparams.objective == "noise":
            return ddim(model, noise, times, self.path)
        return SOLVERS[self.hparams.solver](model, noise, times)

    def is_guided(self, t: float) -> bool:
        """Returns whether guidance applies at time t."""
        alpha_t, sigma_t = self.path.coefficients(torch.tensor(t, dtype=torch.float64))
        start, end = self.hparams.guidance_interval
        return self.hparams.guidance != 1 and start <= float(alpha_t / (alpha_t + sigma_t)) <= end

    @property
    def nfe(self) -> int:
        evaluated: list[float] = []

        def model(x_t: Tensor, t: float) -> Tensor:
            evaluated.append(t)
            return x_t

        self.solve(model, torch.zeros(1))
        return sum(2 if self.is_guided(t) else 1 for t in evaluated)
