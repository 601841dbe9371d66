"""Base class of all generator families, which defines their interface and their common LightningModule hooks."""

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
from condgen.noise import EVALUATION, TRAINING, Distribution, normal, uniform

FROM_DATA = ("num_classes", "image_shape")  # hyperparameters that the data set determines


class ConditionalGenerator(LightningModule, ABC):
    """Base class of models that generate an image for a label.

    The label and the noise determine the image, because ``generate`` uses no other random numbers. Sample i of seed s
    is always the same image, because its noise depends only on s and i. The rest of condgen uses only the interface of
    this class.

    A family implements ``noise_shape``, ``forward``, ``training_step``, ``evaluate`` and ``configure_optimizers``. Its
    constructor must call ``save_hyperparameters`` before it creates a network.

    Args:
        num_classes: Number of classes. Labels are 0 … ``num_classes`` - 1.
        image_shape: Shape (C, H, W) of the images.

    Raises:
        UsageError: If ``num_classes`` is not a positive integer, or if ``image_shape`` does not consist of three
            positive integers.
    """

    fixed_by_training: ClassVar[Sequence[str]] = ()
    """Names of hyperparameters that must not change after training, although the weights could still be loaded."""

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
        """Mean training image of each label in [0, 1], with shape (num_classes, C, H, W). None if the data module does
        not provide it."""
        # The metric is in a list. As an attribute it would be a submodule, and part of checkpoints.
        self._variance_ratio: list[VarianceRatio] = []
        self.last_train_loss: Tensor | None = None
        self._train_loss = torch.zeros(2)  # sum over the batches of this epoch so far, and their number
        self._saved_train_loss: Tensor | None = None  # from a checkpoint, one row for each process
        self._group_settings: list[dict[str, Any]] = []  # of the optimizers, kept while a checkpoint is restored

    @property
    def hparams(self) -> Any:
        """Hyperparameters of the constructor, as attributes."""
        return super().hparams

    def save_hyperparameters(self, *args: Any, **kwargs: Any) -> None:
        """Saves the hyperparameters as Lightning does, and checks them against the constructor's type annotations.

        Raises:
            UsageError: If a hyperparameter has the wrong type, or if its value is out of range.
        """
        frame = inspect.currentframe()
        super().save_hyperparameters(*args, **{"frame": frame and frame.f_back, **kwargs})
        self.hparams.update(plain_settings(type(self), self.hparams))

    # Generating images.

    @property
    def nfe(self) -> int:
        """Number of function evaluations (NFE): how many times the network is evaluated to generate one sample."""
        return 1

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one sample."""

    @property
    def noise_distribution(self) -> Distribution:
        """Distribution of each element of the noise: ``uniform`` in [0, 1), or standard ``normal``."""
        return "uniform"

    @abstractmethod
    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Generates images (N, C, H, W) in [0, 1] from labels (N,) and noise (N, *noise_shape).

        Unlike ``generate``, this method does not check its arguments. In training, a check of the label values would
        make the host wait for the GPU in each step.
        """

    def generate(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Generates images (N, C, H, W) in [0, 1].

        Args:
            labels: Labels with shape (N,), as int64.
            noise: Noise with shape (N, *noise_shape), for example from :meth:`sample_noise`.

        Raises:
            UsageError: If the labels or the noise have the wrong type or shape, or if a label is out of range.
        """
        self.check_labels_and_noise(labels, noise)
        if not len(labels):  # pixel_shuffle returns a wrong shape for an empty batch
            return noise.new_zeros(0, *self.image_shape)
        return self(labels, noise)

    def check_labels_and_noise(self, labels: Tensor, noise: Tensor) -> None:
        """Checks the type, shape and range of labels and noise; raises UsageError otherwise."""
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
            raise UsageError(
                f"The labels are {_kind(labels)}. Use int64 with shape (N,), such as torch.tensor([3, 1, 4])."
            )
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(wrong):
            raise UsageError(f"There is no label {int(wrong[0])}. Use labels from 0 to {self.num_classes - 1}.")
        shape = (len(labels), *self.noise_shape)
        if not isinstance(noise, Tensor) or not noise.is_floating_point() or noise.shape != shape:
            raise UsageError(
                f"The noise is {_kind(noise)}. For {len(labels)} labels use floating-point numbers with shape {shape}, "
                f"such as generator.sample_noise(0, range({len(labels)}))."
            )

    def sample_noise(self, seed: int, indices: Sequence[int] | Tensor) -> Tensor:
        """Returns the noise for the given samples, with shape (N, *noise_shape), on the CPU.

        Args:
            seed: Random seed.
            indices: Indices of the N samples. The noise of sample i depends only on the seed and i.
        """
        numbers = uniform(seed, indices, self.noise_shape)
        return normal(numbers) if self.noise_distribution == "normal" else numbers

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Reconstructs images (N, C, H, W) in [0, 1]. Returns None if the family has no encoder."""
        return None

    def predict_step(self, batch: Any) -> Tensor:
        """Generates the images (N, C, H, W) in [0, 1] of a batch, a :class:`condgen.data.requests.SampleBlock`."""
        noise = self.sample_noise(batch.seed, batch.noise.cpu()).to(self.device)
        return self.generate(batch.labels, noise).float()

    @property
    def sampler(self) -> nn.Module:
        """Module that contains all weights that ``generate`` uses."""
        return self

    def remove_training_parts(self) -> None:
        """Removes the networks and parameters that are used only in training, such as a discriminator."""
        needed = {id(tensor) for tensor in self.sampler.state_dict(keep_vars=True).values()}
        parts: dict[str, list[Tensor]] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            parts.setdefault(name.partition(".")[0], []).append(tensor)
        for part, tensors in parts.items():
            if not any(id(tensor) in needed for tensor in tensors):
                delattr(self, part)

    # Random numbers of training. They depend only on the run's seed, the step and the row in the global batch.

    def setup(self, stage: str) -> None:
        self.run_seed = int(os.environ.get("PL_GLOBAL_SEED", self.run_seed))
        if stage in ("fit", "validate", "test"):
            self.label_means = getattr(self.trainer.datamodule, "label_means", None)  # type: ignore[attr-defined]

    def _batch_numbers(self, rows: int, batch_idx: int, shape: Sequence[int]) -> Tensor:
        """Returns uniform random numbers in [0, 1) for the rows of this process, on the CPU.

        In training, the numbers differ between epochs. In validation and test they are the same in each epoch, so that
        changes of a metric are caused only by the network. The result has shape (rows, *shape).
        """
        processes, rank = self.trainer.world_size, self.trainer.global_rank
        stream, epoch = (TRAINING, self.current_epoch) if self.trainer.training else (EVALUATION, 0)
        own_rows = range(rank, rank + rows * processes, processes)
        return uniform(self.run_seed, own_rows, shape, stream=stream, step=(batch_idx, epoch))

    def batch_uniform(self, rows: int, batch_idx: int, shape: Sequence[int]) -> Tensor:
        """Returns uniform noise in [0, 1) for a batch, with shape (rows, *shape), on the device.

        Args:
            rows: Number of rows of the batch on this process.
            batch_idx: Index of the batch.
            shape: Shape of the noise of one row.
        """
        return self._batch_numbers(rows, batch_idx, shape).to(self.device)

    def batch_normal(
        self, rows: int, batch_idx: int, shape: Sequence[int], extra_uniform: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Returns standard normal noise and uniform random numbers for a batch, on the device.

        The noise has shape (rows, *shape). The uniform numbers in [0, 1) have shape (rows, extra_uniform).

        Args:
            rows: Number of rows of the batch on this process.
            batch_idx: Index of the batch.
            shape: Shape of the noise of one row.
            extra_uniform: Number of uniform random numbers for each row.
        """
        size = math.prod(shape)
        numbers = self._batch_numbers(rows, batch_idx, (size + extra_uniform,))
        noise = normal(numbers[:, :size]).view(-1, *shape)
        return noise.to(self.device), numbers[:, size:].to(self.device)

    def of_all_processes(self, own: Tensor) -> Tensor:
        """Gathers the rows of all processes, in the order of the global batch.

        Families that compare the images of a batch with each other need this method, so that their loss does not depend
        on the number of processes. Gradients flow only to the rows of this process.

        Args:
            own: Rows of this process, with shape (n, …).

        Returns:
            Rows of all processes, with shape (N, …).
        """
        processes = self.trainer.world_size
        if processes == 1:
            return own
        rows = self.all_gather(own.detach()).transpose(0, 1).flatten(0, 1)  # type: ignore[union-attr]
        rows[self.trainer.global_rank :: processes] = own
        return rows

    # Logging.

    def log_train_loss(self, loss: Tensor, **parts: Tensor) -> None:
        """Logs the training loss as ``train_loss``, every ``log_every_n_steps`` steps and at the end of an epoch.

        The method also adds the loss to the epoch's mean, which is logged as ``train_loss_epoch`` together with
        ``val_loss``. So it must be called in every step.

        Args:
            loss: Loss of the batch, a scalar.
            **parts: Other scalars to log. The scalar NAME is logged as ``train_NAME``.
        """
        self.last_train_loss = loss.detach()
        # Not in every step, because Lightning's log takes a millisecond per value, a fortieth of a step of the DNN.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged = every > 0 and (self.trainer.global_step + 1) % every == 0
        if is_logged or self.trainer.should_stop or self.trainer.is_last_batch:
            self.log_dict({"train_loss": loss, **{f"train_{name}": part for name, part in parts.items()}})
        self._train_loss[0] += self.last_train_loss.float()
        self._train_loss[1] += 1

    def _train_losses(self) -> Tensor:
        """Returns the sum and the number of the training losses of this epoch so far, one row for each process.

        All ranks must call this method.
        """
        gathered = self.all_gather(self._train_loss)
        assert isinstance(gathered, Tensor)
        return gathered.view(-1, 2)

    def on_train_epoch_start(self) -> None:
        self._train_loss = torch.zeros(2, device=self.device)

    # Validation and test.

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Computes the metrics of a validation or test batch.

        An implementation must call :meth:`measure_variance`.

        Args:
            batch: Images (N, C, H, W) in [0, 1] and labels (N,).
            batch_idx: Index of the batch.

        Returns:
            Metrics keyed by name, without the prefix ``val_`` or ``test_``. One of them must be ``loss``.
        """
        raise NotImplementedError

    def measure_variance(self, generated: Tensor, images: Tensor, labels: Tensor) -> None:
        """Adds a batch to the metric ``variance_ratio``.

        Args:
            generated: Generated images in [0, 1], with shape (N, C, H, W).
            images: Real images in [0, 1], with shape (N, C, H, W).
            labels: Labels of both, with shape (N,).
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

    # Checkpoints. They also contain the information that is needed to create the same generator and data module again.

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
        # Lightning will overwrite the optimizers' settings with those of the checkpoint. Keep the settings of this run,
        # so that on_train_start can restore them.
        self._group_settings = [
            {name: value for name, value in group.items() if name != "params"}
            for optimizer in self.trainer.optimizers
            for group in optimizer.param_groups
        ]

    def on_train_start(self) -> None:
        self._restore_train_loss()
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        for group, settings in zip(groups, self._group_settings, strict=False):  # empty in a tuner's trial
            group.update(settings)
        self._group_settings = []
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, LambdaLR):
                if config.interval == "step" and not scheduler.last_epoch:  # the run of the checkpoint had no schedule
                    scheduler.last_epoch = self.trainer.global_step
                scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
                for group, factor in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
                    group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)

    def _restore_train_loss(self) -> None:
        rows, self._saved_train_loss = self._saved_train_loss, None
        if rows is not None and len(rows) == self.trainer.world_size:
            self._train_loss = rows[self.trainer.global_rank]
        elif rows is not None and self.trainer.is_global_zero:  # the number of processes has changed: rank 0 takes all
            self._train_loss = rows.sum(0)
        self._train_loss = self._train_loss.to(self.device)


def _kind(value: object) -> str:
    """Describes the dtype and the shape of a tensor, or the type of any other object, for an error message."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"of the type {type(value).__name__}"


def class_path(instance: object) -> str:
    """Returns the full name of an object's class, in the format of ``class_path`` in a config."""
    return f"{type(instance).__module__}.{type(instance).__qualname__}"
