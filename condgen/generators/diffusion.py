"""Diffusion: a network that learns to remove noise, and generates an image from pure noise in several steps.

The DNN has to generate a digit in a single step, and the output with the lowest loss is the mean of all digits with
that label. A diffusion model has an easier job. It's given a noisy image and predicts what the image looks like without
noise. The best prediction is still a mean, but only over the digits that the noisy image could have come from. The
sampler takes a small step toward the prediction and then runs the network again. Each step rules out more digits,
until there's only one left, which depends on the initial noise.

The same network can be trained with two objectives:

- ``flow``: Rectified flow (Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747). Noise and image
  are connected by a straight path, and the network predicts the velocity.
- ``noise``: DDPM (Ho et al. 2020, arXiv:2006.11239), sampled with DDIM (Song et al. 2020, arXiv:2010.02502). The
  network predicts the noise.

All samplers are deterministic, so the image only depends on the initial noise.

On top of the plain method, there are two improvements, which can be turned off:

- ``posterior_images``: If sigma_t > alpha_t, use the posterior mean over the latest training images as the target (Xu
  et al. 2023, arXiv:2302.00670). It estimates the same target with less variance.
- ``mismatched_labels``: Since we know the posterior mean for *every* label, we can also train on noisy images with a
  label that is not their own, as long as it is plausible. Pairs like this come up during sampling, and a network that
  has not seen any will mistake a shape that looks like a 9 for an unusual 4.
"""

import functools
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
from condgen.nn.inversion import squared_error
from condgen.nn.labels import plain_labels, with_null_label
from condgen.nn.likelihood import dequantize, log_density, noisy_image_bound, ode_times, rademacher
from condgen.nn.muon import Muon
from condgen.nn.paths import Path, RectifiedFlow, VariancePreserving
from condgen.nn.posterior import EmpiricalPosterior
from condgen.nn.schedule import ScheduleName, with_schedule
from condgen.nn.solvers import Model, ddim, equal_steps, euler, heun, multistep
from condgen.nn.unet import UNet
from condgen.noise import LIKELIHOOD, Distribution, normal, uniform

MAX_ROUND_TRIP_ERROR = 0.01  # mean squared error per pixel in [0, 1], above which invert fails
SOLVERS = {"multistep": multistep, "heun": heun, "euler": euler}


class Diffusion(EMAGenerator):
    """Conditional diffusion model or rectified flow with a small U-Net.

    See the module docstring for how it works. Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598)
    extrapolates from the unconditional to the conditional prediction and beyond, which makes samples clearer but less
    diverse. It helps at medium noise levels. At high noise levels it hurts diversity, and at low noise levels it
    doesn't do much (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution
    Quality in Diffusion Models", arXiv:2404.07724).

    You can still change ``sampling_steps``, ``solver``, ``guidance`` and ``guidance_interval`` after training.

    Args:
        num_classes: The number of classes. Inferred from the dataset when using the command line.
        image_shape: Image shape (C, H, W). Inferred from the dataset when using the command line.
        unet_channels: The number of U-Net channels at half and a quarter of the image resolution. Both must be
            multiples of 8.
        unet_hidden_dim: Size of the hidden layer in the U-Net's global block, which connects all pixels.
        objective: The training objective. With ``flow``, the network predicts the velocity of rectified flow. With
            ``noise``, it predicts the noise of DDPM and samples with DDIM.
        sampling_steps: The number of steps from noise to image.
        solver: The solver for ``flow``, either ``multistep`` (second order, one evaluation per step), ``heun`` (second
            order, two evaluations per step) or ``euler`` (first order, one evaluation per step). Not used by ``noise``,
            which always samples with DDIM.
        guidance: Classifier-free guidance scale. Use 1 to turn guidance off.
        guidance_interval: The interval to use guidance in, between 0 (noise) and 1 (image). Given in terms of alpha_t /
            (alpha_t + sigma_t), which is just the time t for ``flow``.
        label_dropout: Probability of replacing the label with the null label during training. Must be above 0 for
            guidance to work.
        posterior_images: How many of the latest training images to use for the posterior mean. Use 0 to turn off the
            posterior-mean target.
        mismatched_labels: Whether to also train on plausible labels other than the image's own. Needs
            ``posterior_images``.
        convolution_lr: Learning rate for Muon, which trains the weights of all convolutions except the last one.
        lr: Learning rate for AdamW, which trains all other weights.
        weight_decay: Weight decay for AdamW.
        ema_decay: Decay for the EMA weights, which are used for sampling.
        schedule: Learning-rate schedule after the warm-up. Either constant, or linear or cosine decay to 0.
        warmup_steps: The number of steps for the linear learning-rate warm-up.
    """

    fixed_by_training = ("objective",)
    likelihood_steps = 16
    has_null_label = True

    def __init__(
        self,
        num_classes: PositiveInt = 10,
        image_shape: Sequence[PositiveInt] = (1, 28, 28),
        unet_channels: Sequence[Size] = (64, 112),
        unet_hidden_dim: Size = 512,
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
            raise UsageError(f"model.unet_channels is {list(unet_channels)}. Use two multiples of 8.")
        if not sampling_steps:
            raise UsageError("model.sampling_steps is 0. Use 1 or more.")
        if len(guidance_interval) != 2 or guidance_interval[0] > guidance_interval[1]:
            raise UsageError(f"model.guidance_interval is {list(guidance_interval)}. Use two increasing numbers.")
        self.path: Path = RectifiedFlow() if objective == "flow" else VariancePreserving()
        self.set_network(UNet(self.image_shape, num_classes, unet_channels, unet_hidden_dim), ema_decay)
        if posterior_images:
            self.posterior = EmpiricalPosterior(posterior_images, self.image_shape, num_classes)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.image_shape

    @property
    def noise_distribution(self) -> Distribution:
        return "normal"

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Predicts the target (N, C, H, W) using the given network and preconditioning.

        Args:
            network: The U-Net, or its EMA.
            x_t: Noisy images of shape (N, C, H, W).
            t: Times of shape (N,), or a single time of shape ().
            labels: Labels of shape (N,), or class weights of shape (N, num_classes + 1), including the null label.
        """
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
        # to make it comparable to val_loss, train_loss uses the images' own targets and skips mismatched labels
        is_own = (condition == labels) | (condition == self.num_classes)
        error = (prediction.detach() - own_target).square().flatten(1).mean(1)
        self.log_train_loss((is_own * error).sum() / is_own.sum().clamp(min=1))
        return F.mse_loss(prediction, target)

    def noise_and_times(self, rows: int, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Samples the random numbers for a training or validation step with N rows on this process.

        Returns the noise (N, C, H, W), the times (N,) and uniform numbers in [0, 1) of shape (N, 1 + num_classes).
        """
        size = math.prod(self.image_shape)
        normal, uniform = self.batch_normal(rows, batch_idx, (size + 1,), extra_uniform=1 + self.num_classes)
        return normal[:, 1:].view(rows, *self.image_shape), self.path.training_times(normal[:, 0]), uniform

    @torch.no_grad()
    def posterior_target(
        self, x: Tensor, noise: Tensor, t: Tensor, labels: Tensor, condition: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Computes the conditions (N,) and targets (N, C, H, W) for a training step.

        Both are based on the posterior p(x, label | x_t) if sigma_t > alpha_t. With less noise than that, the posterior
        is concentrated on the image itself, so we just use the image's own condition and target.

        Args:
            x: Images of shape (N, C, H, W) in [-1, 1].
            noise: Noise of shape (N, C, H, W).
            t: Times of shape (N,).
            labels: Image labels of shape (N,).
            condition: Labels of shape (N,) after label dropout, i.e. either the image's label or the null label.
            uniform: Uniform random numbers in [0, 1) of shape (N, num_classes), used to sample mismatched labels.
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
        if batch_idx % max(1, int(sum(batches)) // 10) == 0:  # sampling takes ten times as long as the loss
            some = slice(max(1, 32 // self.trainer.world_size))
            self.measure_variance(self(labels[some], noise[some]), images[some], labels[some])
        x = 2 * images - 1
        prediction = self.predict(self.ema, self.path.add_noise(x, noise, t), t, labels)
        return {"loss": F.mse_loss(prediction, self.path.target(x, noise))}

    # Sampling.

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return (self.solve(self.guided_model(labels), noise) / 2 + 0.5).clamp(0, 1)

    def guided_model(self, labels: Tensor) -> Model:
        """Returns the model for the solver, which predicts the target for x_t (N, C, H, W) using guidance.

        Guidance moves away from the null label, or from the labels with negative weights, if there are any.
        """
        no_label = torch.full_like(labels, self.num_classes)
        if labels.ndim == 2:
            labels, no_label = with_null_label(labels.clamp(min=0)), with_null_label(-labels.clamp(max=0))

        def model(x_t: Tensor, t: float) -> Tensor:
            time = x_t.new_full((), t)
            if not self.is_guided(t):
                return self.predict(self.ema, x_t, time, labels)
            both = self.predict(self.ema, x_t.repeat(2, 1, 1, 1), time, torch.cat((labels, no_label)))
            conditional, unconditional = both.unflatten(0, (2, -1))  # chunk would fix an export's batch size
            return unconditional + self.hparams.guidance * (conditional - unconditional)

        return model

    def unguided_model(self, labels: Tensor) -> Model:
        """Returns the model that predicts the target for x_t (N, C, H, W) using the EMA weights and no guidance."""
        return lambda x_t, t: self.predict(self.ema, x_t, x_t.new_full((), t), labels)

    def solve(self, model: Model, noise: Tensor) -> Tensor:
        """Turns noise (N, C, H, W) into images in [-1, 1], using ``sampling_steps`` steps of equal size."""
        if self.hparams.objective == "noise":
            return ddim(model, noise, self.sampling_times, self.path)
        return SOLVERS[self.hparams.solver](model, noise, self.sampling_times)

    @property
    def sampling_times(self) -> list[float]:
        """The times from 0 (noise) to 1 (image) at which sampling steps begin or end."""
        return equal_steps(self.hparams.sampling_steps)

    def trajectory(self, labels: Tensor, noise: Tensor, frames: int) -> Tensor:
        """Films the sampling process. Each frame shows x_t, and the model's prediction of the image at that time."""
        self.check_labels_and_noise(labels, noise)
        model, film = self.guided_model(plain_labels(labels)), dict[float, Tensor]()
        times = self.sampling_times
        shown = {times[int(n)] for n in torch.linspace(0, len(times) - 1, frames)}

        def filmed(x_t: Tensor, t: float) -> Tensor:
            prediction = model(x_t, t)
            if t in shown:
                film[t] = torch.stack((x_t, self.path.image(x_t, prediction, t)))
            return prediction

        image = self.solve(filmed, noise)
        film[1.0] = torch.stack((image, image))
        return (torch.stack(list(film.values())) / 2 + 0.5).clamp(0, 1)

    def log_likelihood(self, images: Tensor, labels: Tensor, indices: Sequence[int], steps: int) -> Tensor:
        """Computes log p(image | label) in nats using the probability-flow ODE, the EMA weights and no guidance.

        Args:
            images: Images of shape (N, C, H, W). Pixel values must be multiples of 1/255 in [0, 1].
            labels: Labels of shape (N,).
            indices: The index of each image, which determines the noise for dequantization and trace estimation.
            steps: The number of Runge-Kutta steps.
        """
        model = self.unguided_model(labels)

        def velocity(x_t: Tensor, t: float) -> Tensor:
            return self.path.velocity(x_t, model(x_t, t), t)

        numbers = uniform(0, indices, (2, *self.image_shape), stream=LIKELIHOOD).to(images)
        x, log_bin_volume = dequantize(images, numbers[:, 0])
        return log_density(velocity, x, rademacher(numbers[:, 1]), ode_times(steps)) + log_bin_volume

    def relative_log_likelihood(self, images: Tensor, labels: Tensor, indices: Sequence[int], steps: int) -> Tensor:
        """Computes a lower bound on log p(slightly noisy image | label) in nats, up to a constant.

        Unlike the ODE, this skips low noise levels. During training, every image has its own label there, so the model
        never learns what other labels should do. See :func:`condgen.nn.likelihood.noisy_image_bound`.

        Args:
            images: Images of shape (N, C, H, W) in [0, 1].
            labels: Labels of shape (N,).
            indices: The index of each image, which determines its noise.
            steps: The number of noise levels, with one evaluation each.
        """
        noise = normal(uniform(0, indices, (steps, *self.image_shape), stream=LIKELIHOOD)).to(images)
        return noisy_image_bound(self.path, self.unguided_model(labels), 2 * images - 1, noise)

    def invert(self, images: Tensor, labels: Tensor, steps: int | None = None) -> Tensor:
        """Finds the noise of images by solving the ODE backwards. See :meth:`round_trip`."""
        return self.round_trip(images, labels, steps)[0]

    @torch.no_grad()
    def round_trip(self, images: Tensor, labels: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Solves the ODE from the images to the noise and back, without guidance.

        Args:
            images: Images of shape (N, C, H, W) in [0, 1].
            labels: Labels of shape (N,).
            steps: The number of steps, which doesn't depend on ``sampling_steps``. Defaults to 10 for ``flow``, and to
                50 for ``noise``, whose solver is only first order.

        Returns:
            The noise of shape (N, C, H, W), and the mean squared error per pixel of each image, of shape (N,).

        Raises:
            UsageError: If solving the ODE forward again doesn't return the images.
        """
        self.check_images_and_labels(images, labels)
        is_flow = self.hparams.objective == "flow"
        times = equal_steps(steps or (10 if is_flow else 50))
        model = self.unguided_model(labels)
        solver = heun if is_flow else functools.partial(ddim, path=self.path, clip=False)
        noise = solver(model, 2 * images - 1, times[::-1])
        errors = squared_error(solver(model, noise, times) / 2 + 0.5, images)
        error = float(errors.mean())
        if not error <= MAX_ROUND_TRIP_ERROR:  # not `>`, so that NaN is caught as well
            raise UsageError(
                f"This is not an inversion: the round trip has a mean squared error of {error:.3g} per pixel, above "
                f"{MAX_ROUND_TRIP_ERROR}. Use more steps (--steps of condgen invert, or steps of generator.invert), or "
                "train the model for longer."
            )
        return noise, errors

    def is_guided(self, t: float) -> bool:
        """Checks whether guidance is used at time t."""
        alpha_t, sigma_t = self.path.coefficients_at(t)
        start, end = self.hparams.guidance_interval
        return self.hparams.guidance != 1 and start <= alpha_t / (alpha_t + sigma_t) <= end

    @property
    def nfe(self) -> int:
        evaluated: list[float] = []

        def model(x_t: Tensor, t: float) -> Tensor:
            evaluated.append(t)
            return x_t

        self.solve(model, torch.zeros(1))
        return sum(2 if self.is_guided(t) else 1 for t in evaluated)
