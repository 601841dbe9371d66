"""Base class for all generator families. Defines the common interface and the LightningModule hooks they share."""

import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import condgen
from condgen.errors import UsageError
from condgen.generators.settings import PositiveInt, plain_settings
from condgen.metrics import VarianceRatio
from condgen.nn.inversion import STEPS, optimize_noise
from condgen.nn.labels import plain_labels
from condgen.noise import EVALUATION, TRAINING, Distribution, normal, uniform

INVERSION_STARTS = 2  # how many samples the optimization in ConditionalGenerator.invert starts from
FROM_DATA = ("num_classes", "image_shape")  # hyperparameters that are inferred from the dataset


class ConditionalGenerator(LightningModule, ABC):
    """Base class for models that generate images from labels.

    An image is fully determined by its label and its noise, since ``generate`` has no other source of randomness. The
    noise in turn depends only on the seed and the sample index, so sample i of a given seed is always the same image.
    The rest of condgen only relies on the interface defined here.

    Subclasses implement ``noise_shape``, ``forward``, ``training_step``, ``evaluate`` and ``configure_optimizers``.
    They have to call ``save_hyperparameters`` in their constructor before creating any networks.

    Args:
        num_classes: The number of classes. Labels range from 0 to ``num_classes - 1``.
        image_shape: Image shape (C, H, W).

    Raises:
        UsageError: If ``num_classes`` is not a positive integer or ``image_shape`` is not three of them.
    """

    likelihood_steps: ClassVar[int] = 0
    """The number of steps that ``condgen test`` uses for ``log_likelihood``, or 0 for families without a likelihood."""

    fixed_by_training: ClassVar[Sequence[str]] = ()
    """Hyperparameters that must not change after training, even if the weights would still load."""
    has_null_label: ClassVar[bool] = False
    """Whether the family can generate images without a label, and with negative guidance."""

    def __init__(self, num_classes: PositiveInt, image_shape: Sequence[PositiveInt]) -> None:
        super().__init__()
        base = plain_settings(ConditionalGenerator, {"num_classes": num_classes, "image_shape": image_shape})
        if len(image_shape) != 3:
            raise UsageError(
                f"model.image_shape is {list(image_shape)}. Use channels, height and width, such as [1,28,28]."
            )
        self.num_classes: int = base["num_classes"]
        self.image_shape: tuple[int, ...] = tuple(base["image_shape"])
        self.run_seed = 0
        self.label_means: Tensor | None = None
        """Mean training image per label, (num_classes, C, H, W) in [0, 1]. None if not provided by the data module."""
        # Wrapped in a list, so that it is not registered as a submodule and saved in checkpoints.
        self._variance_ratio: list[VarianceRatio] = []
        self.last_train_loss: Tensor | None = None
        self._train_loss = torch.zeros(2)  # running sum over this epoch's batches, and their count
        self._saved_train_loss: Tensor | None = None  # from a checkpoint, one row per process
        self._group_settings: list[dict[str, Any]] = []  # optimizer settings, kept while restoring a checkpoint

    @property
    def hparams(self) -> Any:
        """The constructor's hyperparameters, accessible as attributes."""
        return super().hparams

    def save_hyperparameters(self, *args: Any, **kwargs: Any) -> None:
        """Saves the hyperparameters and validates them against the type annotations of the constructor.

        Raises:
            UsageError: If a hyperparameter has the wrong type or is out of range.
        """
        frame = inspect.currentframe()
        super().save_hyperparameters(*args, **{"frame": frame and frame.f_back, **kwargs})
        self.hparams.update(plain_settings(type(self), self.hparams))

    # Generating images.

    @property
    def nfe(self) -> int:
        """The number of function evaluations (NFE), i.e. how often the network runs to generate one sample."""
        return 1

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """Noise shape for a single sample."""

    @property
    def noise_distribution(self) -> Distribution:
        """The noise distribution, either ``uniform`` in [0, 1) or standard ``normal``."""
        return "uniform"

    @abstractmethod
    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Generates images of shape (N, C, H, W) in [0, 1] from labels (N,) and noise (N, *noise_shape).

        Class weights (N, num_classes) work as well, see ``generate``. Unlike ``generate``, this does not validate the
        inputs. During training, checking the label values would force a GPU sync in every step.
        """

    def generate(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Generates images of shape (N, C, H, W) in [0, 1].

        Instead of labels, you can pass class weights. Positive weights that sum to 1 mix the labels. A batch of one-hot
        weights gives exactly the same images as the labels. In a batch that also contains mixes, the difference is at
        most a rounding error.

        Families with a null label (the diffusion) also allow positive weights with a sum below 1. The null label gets
        the rest, so a row of zeros means no label at all. Negative weights are negative guidance: guidance moves away
        from these labels instead of the null label. If they sum to more than -1, the null label gets the rest. For
        "a 7, not a 1", use 1 for label 7 and -1 for label 1.

        Args:
            labels: int64 tensor of shape (N,), or floating-point class weights of shape (N, num_classes).
            noise: Tensor of shape (N, *noise_shape), e.g. from :meth:`sample_noise`.

        Raises:
            UsageError: If the labels or the noise have the wrong dtype or shape, if a label is out of range, or if the
                family doesn't support the class weights.
        """
        self.check_labels_and_noise(labels, noise)
        if not len(labels):  # pixel_shuffle returns a wrong shape for an empty batch
            return noise.new_zeros(0, *self.image_shape)
        return self(plain_labels(labels), noise)

    def check_labels_and_noise(self, labels: Tensor, noise: Tensor) -> None:
        """Raises a UsageError if the labels or the noise have the wrong type, shape or range."""
        self.check_labels(labels)
        example = f", such as generator.sample_noise(0, range({len(labels)}))"
        _check_floats("noise is", noise, (len(labels), *self.noise_shape), example)

    def check_images_and_labels(self, images: Tensor, labels: Tensor) -> None:
        """Raises a UsageError if the images or the labels have the wrong type, shape or range."""
        self.check_labels(labels)
        _check_floats("images are", images, (len(labels), *self.image_shape))
        if not ((images >= 0) & (images <= 1)).all():  # False for NaN
            raise UsageError("The images have values outside of [0, 1]. Divide bytes by 255.")

    def check_labels(self, labels: Tensor) -> None:
        """Raises a UsageError if these are neither valid labels (N,) nor class weights (N, num_classes)."""
        if isinstance(labels, Tensor) and labels.is_floating_point() and labels.shape[1:] == (self.num_classes,):
            self.check_class_weights(labels)
            return
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
            raise UsageError(
                f"The labels are {_kind(labels)}. Use int64 with shape (N,), such as torch.tensor([3, 1, 4]), or "
                f"class weights with shape (N, {self.num_classes})."
            )
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(wrong):
            raise UsageError(f"There is no label {int(wrong[0])}. Use labels from 0 to {self.num_classes - 1}.")

    def check_class_weights(self, weights: Tensor) -> None:
        """Raises a UsageError if the family doesn't support these class weights (N, num_classes)."""
        positive, negative = weights.clamp(min=0).sum(1), weights.clamp(max=0).sum(1)
        if not weights.isfinite().all() or (positive > 1 + 1e-3).any() or (negative < -1 - 1e-3).any():
            raise UsageError(
                "The class weights are not finite or too large. Positive weights must have a sum of 1, negative ones "
                "a sum of -1 or above."
            )
        if self.has_null_label:
            return
        if (negative < 0).any():
            raise UsageError(f"{type(self).__name__} has no negative guidance, so class weights must be 0 or above.")
        if (positive < 1 - 1e-3).any():
            raise UsageError(
                f"{type(self).__name__} has no null label, so the class weights of an image must have a sum of 1."
            )

    def sample_noise(self, seed: int, indices: Sequence[int] | Tensor) -> Tensor:
        """Samples the noise for the given sample indices. Returns a CPU tensor of shape (N, *noise_shape).

        Args:
            seed: The random seed.
            indices: Indices of the N samples. The noise for each sample only depends on the seed and its index.
        """
        numbers = uniform(seed, indices, self.noise_shape)
        return normal(numbers) if self.noise_distribution == "normal" else numbers

    def trajectory(self, labels: Tensor, noise: Tensor, frames: int) -> Tensor:
        """Generates a short film for each sample, which ends with the sample itself.

        Families that generate an image in a single step have nothing in between. Their film interpolates the noise,
        from the center of the noise distribution to the noise of the sample.

        Args:
            labels: int64 tensor of shape (N,), or class weights of shape (N, num_classes).
            noise: Tensor of shape (N, *noise_shape).
            frames: The maximum number of frames, at least 2.

        Returns:
            A tensor of shape (F, R, N, C, H, W) in [0, 1], with up to ``frames`` frames and R images per sample.
        """
        center = 0.0 if self.noise_distribution == "normal" else 0.5
        weights = torch.linspace(0, 1, frames).tolist()
        return torch.stack(
            [self.generate(labels, torch.lerp(torch.full_like(noise, center), noise, w)) for w in weights]
        )[:, None]

    def invert(self, images: Tensor, labels: Tensor, steps: int | None = None) -> Tensor:
        """Finds noise from which ``generate`` reconstructs the images, as well as this family can.

        By default, we optimize the noise, starting from a few samples. The generator must be in eval mode.

        Args:
            images: Images of shape (N, C, H, W) in [0, 1].
            labels: int64 tensor of shape (N,).
            steps: The number of optimization steps per start, 50 by default. The diffusion solves an ODE with this
                number of steps instead, and the VAE needs no steps.

        Returns:
            The noise, of shape (N, *noise_shape). Uniform noise stays in [0, 1).
        """
        self.check_images_and_labels(images, labels)
        starts = self.sample_noise(0, range(INVERSION_STARTS))[:, None]
        starts = starts.expand(-1, len(images), *self.noise_shape).to(images)
        is_uniform = self.noise_distribution == "uniform"
        return optimize_noise(lambda noise: self(labels, noise), images, starts, is_uniform, steps or STEPS)

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Reconstructs images of shape (N, C, H, W) in [0, 1], or returns None for families without an encoder."""
        return None

    def log_likelihood(self, images: Tensor, labels: Tensor, indices: Sequence[int], steps: int) -> Tensor | None:
        """Estimates log p(image | label) in nats, or returns None for families without a likelihood.

        This is the probability of an image with 256 gray levels, so you can compare it between families. The estimate
        is reproducible, since its random numbers only depend on the image index.

        Args:
            images: Images of shape (N, C, H, W). Pixel values must be multiples of 1/255 in [0, 1].
            labels: Labels of shape (N,).
            indices: The index of each image. If an index is given twice, e.g. with two labels, so is its noise.
            steps: The number of ODE steps or latent samples. More of them give a more accurate estimate.

        Returns:
            A tensor of shape (N,).
        """
        return None

    def relative_log_likelihood(
        self, images: Tensor, labels: Tensor, indices: Sequence[int], steps: int
    ) -> Tensor | None:
        """Estimates log p(image | label) plus a constant that doesn't depend on the label, e.g. to classify images.

        This is just :meth:`log_likelihood`, unless a family has a better way to compare labels.
        """
        return self.log_likelihood(images, labels, indices, steps)

    def predict_step(self, batch: Any) -> Tensor:
        """Generates the images requested by a :class:`condgen.data.requests.SampleBlock`, as (N, C, H, W) in [0, 1]."""
        noise = self.sample_noise(batch.seed, batch.noise.cpu()).to(self.device)
        return self.generate(batch.labels, noise).float()

    @property
    def sampler(self) -> nn.Module:
        """The module with all of the weights needed by ``generate``."""
        return self

    def remove_training_parts(self) -> None:
        """Deletes networks and parameters that are only needed for training, e.g. a discriminator."""
        needed = {id(tensor) for tensor in self.sampler.state_dict(keep_vars=True).values()}
        parts: dict[str, list[Tensor]] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            parts.setdefault(name.partition(".")[0], []).append(tensor)
        for part, tensors in parts.items():
            if not any(id(tensor) in needed for tensor in tensors):
                delattr(self, part)

    # Random numbers for training. They only depend on the run's seed, the step and the row in the global batch.

    def setup(self, stage: str) -> None:
        self.run_seed = int(os.environ.get("PL_GLOBAL_SEED", self.run_seed))
        if stage in ("fit", "validate", "test"):
            self.label_means = getattr(self.trainer.datamodule, "label_means", None)  # type: ignore[attr-defined]

    def _batch_numbers(self, rows: int, batch_idx: int, shape: Sequence[int]) -> Tensor:
        """Returns uniform random numbers in [0, 1) of shape (rows, *shape) on the CPU for this process's rows.

        The numbers change every epoch during training, but are always the same for validation and test. This way, a
        metric only changes when the network does.
        """
        processes, rank = self.trainer.world_size, self.trainer.global_rank
        stream, epoch = (TRAINING, self.current_epoch) if self.trainer.training else (EVALUATION, 0)
        own_rows = range(rank, rank + rows * processes, processes)
        return uniform(self.run_seed, own_rows, shape, stream=stream, step=(batch_idx, epoch))

    def batch_uniform(self, rows: int, batch_idx: int, shape: Sequence[int]) -> Tensor:
        """Samples uniform noise in [0, 1) for a batch, on the current device.

        Args:
            rows: The number of batch rows on this process.
            batch_idx: Index of the batch.
            shape: Noise shape per row. The result has shape (rows, *shape).
        """
        return self._batch_numbers(rows, batch_idx, shape).to(self.device)

    def batch_normal(
        self, rows: int, batch_idx: int, shape: Sequence[int], extra_uniform: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Samples standard normal noise for a batch, plus some extra uniform numbers in [0, 1), on the current device.

        Args:
            rows: The number of batch rows on this process.
            batch_idx: Index of the batch.
            shape: Noise shape per row. The noise has shape (rows, *shape).
            extra_uniform: How many uniform numbers to sample per row. They have shape (rows, extra_uniform).
        """
        size = math.prod(shape)
        numbers = self._batch_numbers(rows, batch_idx, (size + extra_uniform,))
        noise = normal(numbers[:, :size]).view(-1, *shape)
        return noise.to(self.device), numbers[:, size:].to(self.device)

    def of_all_processes(self, own: Tensor) -> Tensor:
        """Gathers the rows from all processes, in global batch order.

        Use this if your loss compares the images in a batch to each other. Otherwise, the loss would depend on the
        number of processes. Gradients only flow back to this process's rows.

        Args:
            own: The rows on this process, of shape (n, …). The result has shape (N, …).
        """
        processes = self.trainer.world_size
        if processes == 1:
            return own
        rows = self.all_gather(own.detach()).transpose(0, 1).flatten(0, 1)  # type: ignore[union-attr]
        rows[self.trainer.global_rank :: processes] = own
        return rows

    # Logging.

    def log_train_loss(self, loss: Tensor, **parts: Tensor) -> None:
        """Logs the training loss as ``train_loss``, every ``log_every_n_steps`` steps and at the end of each epoch.

        The loss also goes into the epoch mean, which is logged as ``train_loss_epoch`` along with ``val_loss``. Make
        sure to call this in every training step.

        Args:
            loss: Scalar loss for the current batch.
            **parts: Any other scalars to log. ``NAME`` is logged as ``train_NAME``.
        """
        self.last_train_loss = loss.detach()
        # Don't log every step. Lightning's log takes a millisecond per value, which is 1/40 of a DNN training step.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged = every > 0 and (self.trainer.global_step + 1) % every == 0
        if is_logged or self.trainer.should_stop or self.trainer.is_last_batch:
            self.log_dict({"train_loss": loss, **{f"train_{name}": part for name, part in parts.items()}})
        self._train_loss[0] += self.last_train_loss.float()
        self._train_loss[1] += 1

    def _train_losses(self) -> Tensor:
        """Returns the sum and count of this epoch's training losses for each process. Must be called on all ranks."""
        gathered = self.all_gather(self._train_loss)
        assert isinstance(gathered, Tensor)
        return gathered.view(-1, 2)

    def on_train_epoch_start(self) -> None:
        self._train_loss = torch.zeros(2, device=self.device)

    # Validation and test.

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Computes a dictionary of metrics for a validation or test batch.

        The keys don't have the ``val_`` or ``test_`` prefix, and one of them must be ``loss``. Implementations also
        have to call :meth:`measure_variance`.

        Args:
            batch: Images of shape (N, C, H, W) in [0, 1] and labels of shape (N,).
            batch_idx: Index of the batch.
        """
        raise NotImplementedError

    def measure_variance(self, generated: Tensor, images: Tensor, labels: Tensor) -> None:
        """Updates the ``variance_ratio`` metric.

        Args:
            generated: Generated images of shape (N, C, H, W) in [0, 1].
            images: Real images of shape (N, C, H, W) in [0, 1].
            labels: Labels of shape (N,).
        """
        self._variance_ratio[0].update(generated, images, labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_evaluation("val", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_evaluation("test", batch, batch_idx)

    def _log_evaluation(self, prefix: str, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        size = len(batch[1])
        for name, value in self.evaluate(batch, batch_idx).items():
            self.log(f"{prefix}_{name}", value, prog_bar=name == "loss", on_epoch=True, sync_dist=True, batch_size=size)

    def on_validation_epoch_start(self) -> None:
        if self.label_means is not None:
            self.label_means = self.label_means.to(self.device)
        means = torch.zeros(self.num_classes, *self.image_shape, device=self.device)
        self._variance_ratio = [VarianceRatio(means if self.label_means is None else self.label_means)]

    def on_validation_epoch_end(self) -> None:
        self.log("variance_ratio", self._variance_ratio.pop().compute(), sync_dist=True)
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            total, batches = self._train_losses().sum(0)
            self.log("train_loss_epoch", total / batches, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    # Checkpoints. They also store everything that is needed to recreate the generator and the data module.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint.setdefault("condgen", {}).update(
            version=condgen.__version__,
            seed=self.run_seed,
            model=class_path(self),
            data=class_path(datamodule) if datamodule is not None and datamodule.hparams else None,
            train_loss=self._train_losses().tolist(),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["condgen"]
        self.run_seed = int(os.environ.get("PL_GLOBAL_SEED", saved["seed"]))
        self._saved_train_loss = torch.tensor(saved["train_loss"])

    def on_fit_start(self) -> None:
        # Lightning is about to overwrite the optimizer settings with the ones from the checkpoint. Keep this run's
        # settings around, so that we can restore them in on_train_start.
        self._group_settings = [
            {name: value for name, value in group.items() if name != "params"}
            for optimizer in self.trainer.optimizers
            for group in optimizer.param_groups
        ]

    def on_train_start(self) -> None:
        self._restore_train_loss()
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        for group, settings in zip(groups, self._group_settings, strict=False):  # empty during tuner trials
            group.update(settings)
        self._group_settings = []
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, LambdaLR):
                if config.interval == "step" and not scheduler.last_epoch:  # the checkpointed run had no schedule
                    scheduler.last_epoch = self.trainer.global_step
                scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
                for group, factor in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
                    group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)

    def _restore_train_loss(self) -> None:
        rows, self._saved_train_loss = self._saved_train_loss, None
        if rows is not None and len(rows) == self.trainer.world_size:
            self._train_loss = rows[self.trainer.global_rank]
        elif rows is not None and self.trainer.is_global_zero:  # number of processes has changed, so rank 0 takes all
            self._train_loss = rows.sum(0)
        self._train_loss = self._train_loss.to(self.device)


def _check_floats(name: str, value: object, shape: tuple[int, ...], example: str = "") -> None:
    """Raises a UsageError unless this is a floating-point tensor with the given shape, which starts with the labels."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != shape:
        raise UsageError(
            f"The {name} {_kind(value)}. For {shape[0]} labels use floating-point numbers with shape {shape}{example}."
        )


def _kind(value: object) -> str:
    """Returns the dtype and shape of a tensor, or the type of any other value, for use in error messages."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"of the type {type(value).__name__}"


def class_path(instance: object) -> str:
    """Returns the full class name of an object, the way ``class_path`` is written in a config."""
    return f"{type(instance).__module__}.{type(instance).__qualname__}"
