"""The contract of all families, and their common LightningModule hooks."""

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
    """A network that generates an image for a label.

    The noise determines the image: ``generate`` has no hidden randomness. Sample i of seed s is always the same sample,
    because ``draw_noise`` is a function of (s, i). The rest of condgen knows only this class.

    A family implements ``forward``, ``training_step``, ``evaluate`` and ``configure_optimizers``. Its constructor calls
    ``save_hyperparameters`` before it builds a network.

    Args:
        num_classes: labels are 0 … ``num_classes`` - 1.
        image_shape: (C, H, W) of the images.

    Raises:
        UsageError: there are no classes, or the images have no pixels.
    """

    fixed_by_training: ClassVar[Sequence[str]] = ()
    """Hyperparameters that must not change after training, although the weights would still load."""

    def __init__(self, num_classes: PositiveInt, image_shape: Sequence[PositiveInt]) -> None:
        super().__init__()
        base = plain_settings(ConditionalGenerator, {"num_classes": num_classes, "image_shape": image_shape})
        if len(image_shape) != 3:
            raise UsageError(
                f"model.image_shape is {list(image_shape)}: give channels, height and width, such as [1,28,28]."
            )
        self.num_classes: int = base["num_classes"]
        self.image_shape: tuple[int, ...] = tuple(base["image_shape"])
        self.run_seed = 0
        self.label_means: Tensor | None = None
        """The mean training image of each label, in [0, 1]: (num_classes, C, H, W); None if the data have none."""
        # In a list: as an attribute, the metric would be a submodule, and part of checkpoints and the EMA.
        self._variance_ratio: list[VarianceRatio] = []
        self.last_train_loss: Tensor | None = None
        self._train_loss = torch.zeros(2)  # sum over this epoch's batches so far, and their number
        self._saved_train_loss: Tensor | None = None  # from a checkpoint: one row for each process
        self._group_settings: list[dict[str, Any]] = []  # of the optimisers, while a checkpoint is restored

    @property
    def hparams(self) -> Any:
        """The hyperparameters, as attributes."""
        return super().hparams

    def save_hyperparameters(self, *args: Any, **kwargs: Any) -> None:
        """As in Lightning, and checks that the hyperparameters have the types that the constructor annotates.

        Raises:
            UsageError: a hyperparameter has another type, or a value that is out of range.
        """
        frame = inspect.currentframe()
        super().save_hyperparameters(*args, **{"frame": frame and frame.f_back, **kwargs})
        self.hparams.update(plain_settings(type(self), self.hparams))

    # Generating images.

    @property
    def nfe(self) -> int:
        """Number of function evaluations: how often the network is evaluated for one sample."""
        return 1

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one sample's noise."""

    @property
    def noise_distribution(self) -> Distribution:
        """The distribution of each number of the noise: ``uniform`` in [0, 1), or standard ``normal``."""
        return "uniform"

    @abstractmethod
    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Labels (N,) and noise (N, *noise_shape) to images (N, C, H, W) in [0, 1].

        Unlike ``generate`` it checks nothing, because a GPU would have to wait for a check of values in each step.
        """

    def generate(self, labels: Tensor, noise: Tensor) -> Tensor:
        """(N,) int64 labels and (N, *noise_shape) noise to (N, C, H, W) images in [0, 1].

        Raises:
            UsageError: the labels or the noise have another type, shape or range.
        """
        self.check_labels_and_noise(labels, noise)
        if not len(labels):  # pixel_shuffle gives an empty batch a wrong shape
            return noise.new_zeros(0, *self.image_shape)
        return self(labels, noise)

    def check_labels_and_noise(self, labels: Tensor, noise: Tensor) -> None:
        """Raises UsageError unless these are N labels of this family, and noise for N images."""
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
            raise UsageError(f"The labels are {_kind(labels)}: give int64 (N,), such as torch.tensor([3, 1, 4]).")
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(wrong):
            raise UsageError(f"There is no label {int(wrong[0])}: give labels from 0 to {self.num_classes - 1}.")
        shape = (len(labels), *self.noise_shape)
        if not isinstance(noise, Tensor) or not noise.is_floating_point() or noise.shape != shape:
            raise UsageError(
                f"The noise is {_kind(noise)}: for {len(labels)} labels give floating-point numbers {shape}, such as "
                f"generator.draw_noise(0, range({len(labels)}))."
            )

    def draw_noise(self, seed: int, indices: Sequence[int] | Tensor) -> Tensor:
        """Returns the noise of the samples number ``indices`` of a seed: (N, *noise_shape), on the CPU."""
        numbers = uniform(seed, indices, self.noise_shape)
        return normal(numbers) if self.noise_distribution == "normal" else numbers

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Reconstructions of real images (N, C, H, W) in [0, 1]; None if the family has no encoder."""
        return None

    def predict_step(self, batch: Any) -> Tensor:
        """Generates the images (N, C, H, W) in [0, 1] of a :class:`condgen.data.requests.SampleBlock`."""
        noise = self.draw_noise(batch.seed, batch.noise.cpu()).to(self.device)
        return self.generate(batch.labels, noise).float()

    @property
    def sampler(self) -> nn.Module:
        """The module with all weights that ``generate`` uses."""
        return self

    def remove_training_parts(self) -> None:
        """Removes the networks and parameters that only training needs, such as a discriminator."""
        needed = {id(tensor) for tensor in self.sampler.state_dict(keep_vars=True).values()}
        parts: dict[str, list[Tensor]] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            parts.setdefault(name.partition(".")[0], []).append(tensor)
        for part, tensors in parts.items():
            if not any(id(tensor) in needed for tensor in tensors):
                delattr(self, part)

    # Randomness of training: a function of the run's seed, the step and the row in the global batch.

    def setup(self, stage: str) -> None:
        self.run_seed = int(os.environ.get("PL_GLOBAL_SEED", self.run_seed))
        if stage in ("fit", "validate", "test"):
            self.label_means = getattr(self.trainer.datamodule, "label_means", None)  # type: ignore[attr-defined]

    def _batch_numbers(self, rows: int, batch_idx: int, shape: Sequence[int]) -> Tensor:
        """This process's rows of a global batch's uniform numbers: (rows, *shape) in [0, 1), on the CPU.

        In training they differ from epoch to epoch. In evaluation they do not, so that curves show only the network.
        """
        processes, rank = self.trainer.world_size, self.trainer.global_rank
        stream, epoch = (TRAINING, self.current_epoch) if self.trainer.training else (EVALUATION, 0)
        own_rows = range(rank, rank + rows * processes, processes)
        return uniform(self.run_seed, own_rows, shape, stream=stream, step=(batch_idx, epoch))

    def batch_uniform(self, rows: int, batch_idx: int, shape: Sequence[int]) -> Tensor:
        """Uniform noise for this process's rows of a batch: (rows, *shape) in [0, 1), on the device."""
        return self._batch_numbers(rows, batch_idx, shape).to(self.device)

    def batch_normal(
        self, rows: int, batch_idx: int, shape: Sequence[int], extra_uniform: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Normal noise (rows, *shape) for this process's rows of a batch, and uniform numbers (rows, extra_uniform) in
        [0, 1), on the device."""
        size = math.prod(shape)
        numbers = self._batch_numbers(rows, batch_idx, (size + extra_uniform,))
        noise = normal(numbers[:, :size]).view(-1, *shape)
        return noise.to(self.device), numbers[:, size:].to(self.device)

    def of_all_processes(self, own: Tensor) -> Tensor:
        """Returns the rows of all processes (N, ...), in the order of the global batch. Only the own ones carry
        gradients.

        For families that compare the images of a batch with each other: their loss then does not depend on the number
        of processes.
        """
        processes = self.trainer.world_size
        if processes == 1:
            return own
        rows = self.all_gather(own.detach()).transpose(0, 1).flatten(0, 1)  # type: ignore[union-attr]
        rows[self.trainer.global_rank :: processes] = own
        return rows

    # Logging.

    def log_train_loss(self, loss: Tensor, **parts: Tensor) -> None:
        """Logs ``train_loss``, and ``train_NAME`` of each of its parts, in the steps that are logged.

        The loss of every step counts for ``train_loss_epoch``, which is logged beside ``val_loss``.
        """
        self.last_train_loss = loss.detach()
        # Only in these steps: Lightning's log takes a millisecond for each value, a fortieth of the DNN's step.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged = every > 0 and (self.trainer.global_step + 1) % every == 0
        if is_logged or self.trainer.should_stop or self.trainer.is_last_batch:
            self.log_dict({"train_loss": loss, **{f"train_{name}": part for name, part in parts.items()}})
        self._train_loss[0] += self.last_train_loss.float()
        self._train_loss[1] += 1

    def _train_losses(self) -> Tensor:
        """Sum and number of this epoch's training losses so far, one row for each process. All ranks must call this."""
        gathered = self.all_gather(self._train_loss)
        assert isinstance(gathered, Tensor)
        return gathered.view(-1, 2)

    def on_train_epoch_start(self) -> None:
        self._train_loss = torch.zeros(2, device=self.device)

    # Validation and test.

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Metrics of one validation or test batch, keyed without the ``val_`` or ``test_`` prefix.

        ``loss`` must be among them, and the method must call :meth:`measure_variance`.
        """
        raise NotImplementedError

    def measure_variance(self, generated: Tensor, images: Tensor, labels: Tensor) -> None:
        """Adds a batch to ``variance_ratio``: generated and real images (N, C, H, W) in [0, 1] of the same labels."""
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

    # Checkpoints: the information to build the same objects again, beside Lightning's own content.

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
        # Lightning is about to restore the optimisers' settings from the checkpoint, but those of this run hold.
        self._group_settings = [
            {name: value for name, value in group.items() if name != "params"}
            for optimizer in self.trainer.optimizers
            for group in optimizer.param_groups
        ]

    def on_train_start(self) -> None:
        self._restore_train_loss()
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        for group, settings in zip(groups, self._group_settings, strict=False):  # a tuner's trial has none
            group.update(settings)
        self._group_settings = []
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, LambdaLR):
                if config.interval == "step" and not scheduler.last_epoch:  # the checkpoint's run had no schedule
                    scheduler.last_epoch = self.trainer.global_step
                scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
                for group, factor in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
                    group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)

    def _restore_train_loss(self) -> None:
        rows, self._saved_train_loss = self._saved_train_loss, None
        if rows is not None and len(rows) == self.trainer.world_size:
            self._train_loss = rows[self.trainer.global_rank]
        elif rows is not None and self.trainer.is_global_zero:  # another number of processes: the first takes all
            self._train_loss = rows.sum(0)
        self._train_loss = self._train_loss.to(self.device)


def _kind(value: object) -> str:
    """Returns a tensor's dtype and shape, or the type of anything else."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"of the type {type(value).__name__}"


def class_path(instance: object) -> str:
    """Returns the full name of an object's class, as ``class_path`` in a config."""
    return f"{type(instance).__module__}.{type(instance).__qualname__}"
