"""Diffusion: a network that learns to undo noise, and draws by undoing it step by step, from nothing but noise.

Asked for a digit in one step, the DNN answers with the mean of all digits, as that is the best single answer. Here the
question is easier: what was this digit before it was mixed with a little, or with much, noise? The answer is again a
mean, but of those digits only that could have become this noised one. Follow it a small step, ask again, and the digits
that are left become fewer: where the noise is gone there is one, and it depends on the noise that one began with.

There are two ways to put it, for one network. ``flow`` (rectified flow; Liu et al. 2022, Lipman et al. 2022) goes from
noise to image on straight lines and learns the velocity; ``noise`` (DDPM; Ho et al. 2020) learns the noise, and is
sampled by DDIM (Song et al. 2020). Both samplers are deterministic: the noise determines the image.

A mean can be learnt from single answers: the digit that this one was. It is learnt sooner from the mean itself, and
that is known: of all training digits of the label, each as likely as noise would have made this one of it. Under much
noise these are many, and the network is told their mean; under little it is the one (Xu et al. 2023, "Stable Target
Field for Reduced Variance Score Estimation in Diffusion Models").

Where the mean is known, so is the answer to a question that noised digits never ask: if this was a 4, which one, of
what was a 9 before the noise? A sampler asks so where it has gone a little astray, and a network that was asked for 4s
about 4s only takes what looks like a 9 for one of them, and draws it. So the network is asked for labels that are drawn
anew, from those that the noised image could be of.

A part of the answer needs no network: how much of a pixel is noise is guessed from the pixel alone, by a straight
line. The network learns what that leaves, and sees and says numbers of about the same size at all times (Karras et al.
2022, "Elucidating the Design Space of Diffusion-Based Generative Models").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from condgen.data.loader import ImageLoader, Images
from condgen.errors import UsageError, check_number
from condgen.generators.ema import EMAGenerator
from condgen.nn.muon import Muon
from condgen.nn.schedule import ScheduleName, optimizer_and_schedule
from condgen.nn.unet import UNet
from condgen.noise import Distribution

IMAGE_VARIANCE = 0.4  # of a pixel in [-1, 1], about: 0.38 in MNIST, 0.50 in FashionMNIST; it only scales what is learnt

Field = Callable[[Tensor, float], Tensor]  # what the network says of images (N, C, H, W) with noise at a time
Solver = Literal["multistep", "heun", "euler"]


class RectifiedFlow:
    """From noise at time 0 to the image at time 1 on a straight line, at constant velocity, which is what is learnt.

    Liu et al. 2022, "Flow straight and fast". Times are logit-normal, a little towards the noise, so that most of the
    training goes where the answer is least clear (Esser et al. 2024): there it is decided which of all digits this will
    be.
    """

    target_parts = 1.0, -1.0  # of image and noise in what the network learns to say: the velocity

    def __init__(self, solver: Solver) -> None:
        self.solver = solver

    def times(self, numbers: Tensor) -> Tensor:
        """Standard normal numbers (N,) to times of training in (0, 1)."""
        return torch.sigmoid(numbers - 0.4)

    def parts(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of image and noise in the mixture at times of any shape."""
        return times, 1 - times

    def asked(self, steps: int) -> list[float]:
        """The times at which :meth:`sample` asks the network."""
        later = [step / steps for step in range(1, steps)]
        return [0.0, *(time for time in later for _ in range(2 if self.solver == "heun" else 1))]

    def sample(self, velocity: Field, noise: Tensor, steps: int) -> Tensor:
        """Follows the velocity from noise (N, C, H, W) to images, in equal steps."""
        times = [step / steps for step in range(steps + 1)]
        if self.solver == "multistep":
            return self._multistep(velocity, noise, times)
        x = noise
        for t, t_next in itertools.pairwise(times):
            v = velocity(x, t)
            ahead = x + (t_next - t) * v  # Euler
            if self.solver == "heun" and t_next < 1:  # its mean with the velocity at the step's end
                ahead = x + (t_next - t) * (v + velocity(ahead, t_next)) / 2
            x = ahead
        return x

    def _multistep(self, velocity: Field, noise: Tensor, times: Sequence[float]) -> Tensor:
        """Goes towards the image to which the velocity leads, which changes on the way as it did in the step before.

        The way to an image that moves at a constant rate is known, so no step is too long for it. This is of second
        order, and of the kind of DPM-Solver++ (Lu et al. 2022), but straight in this flow's time.
        """
        x = noise
        image = change = torch.zeros_like(x)
        for t, t_next in itertools.pairwise(times):
            before, image = image, x + (1 - t) * velocity(x, t)
            if t > 0:
                change = (image - before) / (t_next - t)  # in equal steps
            kept = (1 - t_next) / (1 - t)
            if t_next < 1:
                x = kept * x + (1 - kept) * image + (t_next - t + (1 - t_next) * math.log(kept)) * change
        return image


class DDPM:
    """A little noise is added again and again, and the noise is what is learnt (Ho et al. 2020), at any of all times.

    What is left of the image after a time is that of their thousand steps in the limit of many (Song et al. 2021, the
    variance preserving process).
    """

    target_parts = 0.0, 1.0  # the noise

    def times(self, numbers: Tensor) -> Tensor:
        return torch.special.ndtr(numbers)  # uniform

    def parts(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of image and noise in the mixture at times of any shape: their squares add up to 1."""
        s = 1 - times  # since the image was whole
        left = torch.exp(-0.1 * s - 9.95 * s.square())  # of the image's variance: beta rises from 0.1 to 20
        return left.sqrt(), (1 - left).sqrt()

    def asked(self, steps: int) -> list[float]:
        return [step / steps for step in range(steps)]

    def sample(self, predict: Field, noise: Tensor, steps: int) -> Tensor:
        """DDIM (Song et al. 2020): to the image that the noise in x leads to, and from there back to the next time."""
        x = noise
        for t, t_next in itertools.pairwise(step / steps for step in range(steps + 1)):
            eps = predict(x, t)
            of_image, of_noise = self._parts(t)
            image = ((x - of_noise * eps) / of_image).clamp(-1, 1)
            of_image, of_noise = self._parts(t_next)
            x = of_image * image + of_noise * eps
        return x

    def _parts(self, time: float) -> tuple[float, float]:
        of_image, of_noise = self.parts(torch.tensor(time, dtype=torch.float64))
        return float(of_image), float(of_noise)


class Candidates:
    """Images (M, D) that a mixture of an image and noise could be of.

    They are held in blocks, which the cores share: each question goes through all of them, and takes as long as reading
    them does.
    """

    def __init__(self, images: Tensor, block_size: int = 500) -> None:
        lacking = -len(images) % block_size
        self.blocks = F.pad(images, (0, 0, 0, lacking)).view(-1, block_size, images.size(1))
        self.squares = F.pad(images.square().sum(1), (0, lacking), value=math.inf)  # so that padding is not likely

    def likelihood(self, x: Tensor, of_image: Tensor, of_noise: Tensor) -> Tensor:
        """How likely each image is to be what x was, if they all were as likely before.

        Args:
            x: mixtures with standard normal noise, (N, D).
            of_image: the image's part in them, (N, 1), above 0.
            of_noise: the noise's part, (N, 1), above 0.

        Returns:
            (N, M and the padding of the last block); rows sum to 1.
        """
        scale = of_image / of_noise
        agreement = (self.blocks.flatten(0, 1) @ (x / of_noise).T).T
        return (scale * (agreement - scale / 2 * self.squares)).softmax(1)

    def mean(self, likelihood: Tensor) -> Tensor:
        """The mean image (N, D), where each counts as much as it is likely."""
        of_blocks = likelihood.view(len(likelihood), *self.blocks.shape[:2]).transpose(0, 1)
        return torch.bmm(of_blocks, self.blocks).sum(0)


class Lesson(NamedTuple):
    """What the network is asked in a step of N questions, and what it is to say."""

    x: Tensor  # (N, C, H, W), mixtures of images and noise
    times: Tensor  # (N,)
    labels: Tensor  # (N,), for which it is asked
    target: Tensor  # (N, C, H, W)
    own_target: Tensor  # (N, C, H, W), of each image and its noise
    is_own: Tensor  # (N,), whether that is an answer, too: the label is the image's own, or hidden


class Diffusion(EMAGenerator):
    """A U-Net that is asked again and again what an image with noise was; see the module.

    In training one label in twenty is hidden, so that it learns to draw with and without.

    Guidance (Ho and Salimans 2022) goes from the answer without label through that with it and beyond: samples are
    clearer, and less various. It helps where it is decided what the noise becomes: before, it makes samples alike, and
    later it has nothing to say (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval").

    ``sampling_steps``, ``solver``, ``guidance`` and ``guidance_interval`` can be changed when samples are drawn.

    Args:
        num_classes: follows the data set.
        image_shape: (C, H, W), follows the data set.
        channels: of the U-Net at half and at a quarter of the image's side.
        objective: ``flow`` learns the velocity of rectified flow, ``noise`` the noise of DDPM, sampled by DDIM.
        sampling_steps: from noise to image.
        solver: of ``flow``: ``multistep`` asks the network once a step and goes by its last two answers, ``heun`` asks
            twice, but once in the last step, ``euler`` once.
        guidance: 1 for none; above, the network is asked twice where it guides.
        guidance_interval: where it guides: from which part of image in the mixture of image and noise to which, where 0
            is noise and 1 the image. For ``flow`` these are times.
        convolution_lr: learning rate of Muon, which trains the weights of all convolutions but the last.
        lr: learning rate of AdamW, which trains all else.
        weight_decay: of AdamW.
        ema_decay: the most that the network that draws keeps of its weights in a step, where it takes the rest from the
            one that is trained. In step n it keeps (1 + n) / (10 + n), until that is more.
        schedule: what the learning rates do after the warm-up: stay, or fall to 0 over the run, in a straight line or
            like half a cosine.
        warmup_steps: steps over which the learning rates rise.
    """

    fixed_by_training = ("objective",)

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (64, 112),
        objective: Literal["flow", "noise"] = "flow",
        sampling_steps: int = 6,
        solver: Solver = "multistep",
        guidance: float = 1.2,
        guidance_interval: Sequence[float] = (0.1, 0.5),
        convolution_lr: float = 0.03,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        ema_decay: float = 0.9995,
        schedule: ScheduleName = "linear",
        warmup_steps: int = 100,
    ) -> None:
        super().__init__(num_classes, image_shape)
        if len(channels) != 2 or any(number < 8 or number % 8 for number in channels):
            raise UsageError(f"model.channels is {list(channels)}: give two multiples of 8.")
        for name, value, choices in (("objective", objective, ("flow", "noise")), ("solver", solver, get_args(Solver))):
            if value not in choices:
                raise UsageError(f"model.{name} is {value}: give one of {', '.join(choices)}.")
        if not isinstance(sampling_steps, int):
            raise UsageError(f"model.sampling_steps is {sampling_steps}: give a whole number.")
        check_number("model.sampling_steps", sampling_steps, at_least=1, at_most=10_000)
        check_number("model.guidance", guidance, at_least=0)
        if len(guidance_interval) != 2 or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
            raise UsageError(
                f"model.guidance_interval is {list(guidance_interval)}: give two numbers, 0 <= from <= to <= 1."
            )
        check_number("model.convolution_lr", convolution_lr, above=0)
        check_number("model.lr", lr, above=0)
        check_number("model.weight_decay", weight_decay, at_least=0)
        check_number("model.ema_decay", ema_decay, at_least=0, at_most=1)
        check_number("model.warmup_steps", warmup_steps, at_least=0)
        self.save_hyperparameters()
        self.objective = RectifiedFlow(solver) if objective == "flow" else DDPM()
        self.sampling_steps = sampling_steps
        self.guidance, self.guidance_interval = guidance, tuple(guidance_interval)
        self.convolution_lr, self.lr, self.weight_decay = convolution_lr, lr, weight_decay
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.set_network(UNet(self.image_shape, num_classes, channels), ema_decay)

    @property
    def nfe(self) -> int:
        return sum(2 if self.is_guided(time) else 1 for time in self.objective.asked(self.sampling_steps))

    def is_guided(self, time: float) -> bool:
        """Whether guidance has a say at a time of sampling."""
        of_image, of_noise = self.objective.parts(torch.tensor(time, dtype=torch.float64))
        begin, end = self.guidance_interval
        return self.guidance != 1 and begin <= float(of_image / (of_image + of_noise)) <= end

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.image_shape

    @property
    def noise_distribution(self) -> Distribution:
        return "normal"

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        no_label = torch.full_like(labels, self.num_classes)

        def field(x: Tensor, time: float) -> Tensor:
            at = x.new_tensor(time)
            if not self.is_guided(time):
                return self.answer(self.ema, x, at, labels)
            both = self.answer(self.ema, x.repeat(2, 1, 1, 1), at, torch.cat((labels, no_label)))
            with_label, without = both.unflatten(0, (2, -1))  # of any length, also where this is exported
            return without + self.guidance * (with_label - without)

        images = self.objective.sample(field, noise, self.sampling_steps)
        return (images / 2 + 0.5).clamp(0, 1)

    def mix(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Images and noise (N, C, H, W), mixed as they are at ``times`` (N,)."""
        of_image, of_noise = self.objective.parts(times[:, None, None, None])
        return of_image * images + of_noise * noise

    def target(self, images: Tensor, noise: Tensor) -> Tensor:
        """What is to be said of a mixture of these images and noise (N, C, H, W)."""
        image_part, noise_part = self.objective.target_parts
        return image_part * images + noise_part * noise

    def answer(self, network: nn.Module, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """What a network says of mixtures x (N, C, H, W) at ``times`` (N,), or () for all, as of ``labels`` (N,).

        That is the best guess that is linear in x, were pixels independent, and the network's part: what is left of the
        target then, scaled to a variance of 1, as is what the network sees.
        """
        of_image, of_noise = self.objective.parts(times[..., None, None, None])
        image_part, noise_part = self.objective.target_parts
        variance = IMAGE_VARIANCE * of_image.square() + of_noise.square()  # of x
        deviation = variance.sqrt()
        guess = (IMAGE_VARIANCE * image_part * of_image + noise_part * of_noise) / variance * x
        left = IMAGE_VARIANCE**0.5 * (image_part * of_noise - noise_part * of_image) / deviation
        return guess + left * network(x / deviation, times, labels).float()

    def noise_and_times(self, rows: int, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise (N, C, H, W) for a batch of N rows, times (N,), and uniform numbers (N, 1 + num_classes)."""
        size = math.prod(self.image_shape)
        numbers, further_numbers = self.batch_normal(rows, batch_idx, (size + 1,), further=1 + self.num_classes)
        return numbers[:, 1:].view(rows, *self.image_shape), self.objective.times(numbers[:, 0]), further_numbers

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not hasattr(self.trainer.datamodule, "train_images"):  # type: ignore[attr-defined]
            raise UsageError("Diffusion needs a data module of condgen: trainer.fit(Diffusion(), datamodule=MNIST()).")
        training: Images = self.trainer.datamodule.train_images  # type: ignore[attr-defined]
        self.know(training.images.to(self.device), training.labels.to(self.device))
        self.lessons: dict[tuple[int, int], Lesson] = {}  # of batches to come, by epoch and number in it

    def know(self, images: Tensor, labels: Tensor) -> None:
        """Takes training images (M, C, H, W), uint8, and their labels (M,), for what a mixture could be of."""
        images = images.flatten(1) / 127.5 - 1
        of_labels = [images[labels == label] for label in range(self.num_classes)]
        self.of_labels = [Candidates(of_label) for of_label in of_labels]
        each = math.ceil(2000 / self.num_classes)
        some = [of_label[:: math.ceil(len(of_label) / each) or 1] for of_label in of_labels]
        self.of_any_label = Candidates(torch.cat(some))
        self.shares = torch.block_diag(*(part.new_ones(len(part), 1) / max(1, len(part)) for part in some))

    def question_and_answer(
        self, x: Tensor, times: Tensor, labels: Tensor, target: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For which labels (N,) the network is asked about x (N, C, H, W), and what it learns to say.

        Where the image outweighs the noise in x, these are the image's label and its own target. Where noise does, the
        label is one that x could be of, and the target the mean over what of this label it could have been. One label
        in twenty is hidden.

        Args:
            x: mixtures of images and noise, at times (N,).
            times: (N,).
            labels: of the images, (N,).
            target: of each image and its noise, (N, C, H, W).
            numbers: uniform, (N, 1 + num_classes), which decide.
        """
        of_images, of_noises = self.objective.parts(times[:, None])
        mixtures, asked, target = x.flatten(1), labels.clone(), target.clone()
        noisy = torch.nonzero((of_noises > of_images).flatten()).flatten()
        likelihood = self.of_any_label.likelihood(mixtures[noisy], of_images[noisy], of_noises[noisy])
        chances = likelihood[:, : len(self.shares)] @ self.shares  # of labels, (n, num_classes), were all as frequent
        # Drawn by their chances to a power, which favours the less likely, in a race of exponential waiting times.
        asked[noisy] = (numbers[noisy, 1:].clamp(min=1e-8).log() / chances**0.7).argmax(1)
        asked = torch.where(numbers[:, 0] < 0.05, self.num_classes, asked)
        for label in asked[noisy].unique().tolist():
            if label == self.num_classes:
                continue
            rows = noisy[asked[noisy] == label]
            candidates, of_image, of_noise = self.of_labels[label], of_images[rows], of_noises[rows]
            mean = candidates.mean(candidates.likelihood(mixtures[rows], of_image, of_noise))
            noise = (mixtures[rows] - of_image * mean) / of_noise
            target[rows] = self.target(mean, noise).view_as(target[rows])
        return asked, target

    def lesson(self, batch_idx: int) -> Lesson:
        """What is learnt in a step of this epoch, prepared with the steps around it.

        A question goes through all training images of its label, which takes nearly as long for one as for many.
        """
        place = self.current_epoch, batch_idx
        if place not in self.lessons:
            loader = self.trainer.train_dataloader
            assert isinstance(loader, ImageLoader)
            together = max(1, 512 * loader.positions.processes // loader.positions.batch_size)
            first = batch_idx // together * together  # also where a training is gone on with from in between
            batches = range(first, min(first + together, len(loader)))
            with torch.autocast(self.device.type, enabled=False):
                lessons = self.prepare({batch: loader.positions.rows(batch) for batch in batches})
            self.lessons = {(self.current_epoch, batch): lesson for batch, lesson in lessons.items()}
        return self.lessons[place]

    def prepare(self, batches: dict[int, Tensor]) -> dict[int, Lesson]:
        """Lessons of batches, each given by its number in the epoch and the numbers of its images (N,)."""
        training: Images = self.trainer.datamodule.train_images  # type: ignore[attr-defined]
        images, labels = (part.to(self.device) for part in training[torch.cat(list(batches.values()))])
        images = images / 127.5 - 1
        noisy = (self.noise_and_times(len(rows), batch) for batch, rows in batches.items())
        noise, times, numbers = (torch.cat(parts) for parts in zip(*noisy, strict=True))
        x, own_target = self.mix(images, noise, times), self.target(images, noise)
        asked, target = self.question_and_answer(x, times, labels, own_target, numbers)
        is_own = (asked == labels) | (asked == self.num_classes)
        parts = (x, times, asked, target, own_target, is_own)
        lessons = zip(*(part.split([len(rows) for rows in batches.values()]) for part in parts), strict=True)
        return {batch: Lesson(*lesson) for batch, lesson in zip(batches, lessons, strict=True)}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        lesson = self.lesson(batch_idx)
        answer = self.answer(self.network, lesson.x, lesson.times, lesson.labels)
        own = lesson.is_own
        if own.any():  # as for val_loss
            self.log_train_loss(F.mse_loss(answer.detach()[own], lesson.own_target[own]))
        return F.mse_loss(answer, lesson.target)

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        noise, times, _ = self.noise_and_times(len(labels), batch_idx)
        among = len(getattr(self.trainer.datamodule, "val_images", labels))  # type: ignore[attr-defined]
        if batch_idx % max(1, among // 300) == 0:  # some 300 images: drawing costs ten times what the loss does
            self.measure_variance(self(labels, noise), images, labels)
        images = 2 * images - 1
        answer = self.answer(self.ema, self.mix(images, noise, times), times, labels)
        return {"loss": F.mse_loss(answer, self.target(images, noise))}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        *inner, _ = (part for part in self.network.modules() if isinstance(part, nn.Conv2d))
        matrices = [convolution.weight for convolution in inner]
        others = [weights for weights in self.network.parameters() if all(weights is not matrix for matrix in matrices)]
        optimizer = Muon(matrices, others, self.convolution_lr, self.lr, (0.9, 0.99), self.weight_decay)
        return optimizer_and_schedule(self, optimizer, self.schedule, self.warmup_steps)
