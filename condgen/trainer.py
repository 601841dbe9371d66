"""Lightning's Trainer, with its files in a run directory, and what its settings may be."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.plugins import CheckpointIO, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor

from condgen.errors import UsageError


class RunTrainer(Trainer):
    """A Trainer whose files go into a run directory, whatever loggers it has."""

    run_directory: Path | None = None
    callbacks: list[Callback]  # set by Lightning, which does not declare them
    fast_dev_run: int | bool
    _should_stop = False

    @property
    def should_stop(self) -> bool:
        """Whether training is to end, as a callback wants: after a step, as gathered gradients are nowhere saved."""
        return self._should_stop and not self.fit_loop._should_accumulate()

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        waiting = self._should_stop and not self.should_stop  # who adds to what it reads does not take that back
        self._should_stop = value or waiting

    @property
    def log_dir(self) -> str | None:
        """The run directory; a collective, as Lightning's own."""
        return self.strategy.broadcast(None if self.run_directory is None else str(self.run_directory))


@contextmanager
def restoring(path: Any) -> Iterator[None]:
    """Re-raises any error inside as "checkpoint ``path`` does not fit", or as one of the callback that raised it."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        callback = next((o for f in frames if isinstance(o := f.f_locals.get("self"), Callback)), None)
        if callback is not None:
            name = type(callback).__name__
            raise UsageError(
                f"The callback {name} cannot restore its state from {path} ({what}): leave it out."
            ) from error
        raise UsageError(f"{path} does not fit this training ({what}): take another checkpoint.") from error


class CheckpointConnector(_CheckpointConnector):
    """Lightning's restoring of checkpoints, which does not expect them to be of any other making than its own."""

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The path as it was given. Without one, Lightning would start a new training from an ``hpc_ckpt_1.ckpt`` of a
        SLURM job, or from the file of an OnExceptionCheckpoint."""
        return ckpt_path

    def _restore_modules_and_callbacks(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        with restoring(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with restoring(self._ckpt_path):
            super().restore_training_state()

    def restore_loops(self) -> None:
        """With ``max_steps`` Lightning takes an epoch's end for a place within the epoch, and ends the epoch again."""
        super().restore_loops()
        epochs = self.trainer.fit_loop.epoch_progress.current
        if epochs.processed == epochs.ready:  # type: ignore[attr-defined]
            _Loop.restarting.fset(self.trainer.fit_loop, False)  # type: ignore[attr-defined]

    def restore_optimizers(self) -> None:
        """Also refuses state of another shape than its weights', through which a fused optimiser reads and writes."""
        if len(self._loaded_checkpoint["optimizer_states"]) != len(self.trainer.optimizers):
            raise ValueError("another number of optimisers")
        super().restore_optimizers()
        for optimizer in self.trainer.optimizers:
            for weights, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.ndim and value.shape != weights.shape:
                        raise ValueError(f"{name} has the shape {value.shape}, its weights {weights.shape}")


def _one_or_more(value: float) -> bool:
    return value >= 1


def _one_or_endless(value: float) -> bool:
    return value >= 1 or value == -1


def _part(value: float) -> bool:
    return 0 < value <= 1 or (value > 1 and value % 1 == 0)


def _part_or_none(value: float) -> bool:
    return value == 0 or _part(value)


# What Lightning lets pass, and then fails on, ignores or turns into a training of nothing.
_ALLOWED: dict[str, tuple[str, Callable[[float], bool]]] = {
    "max_epochs": ("1 or more, or -1 for no end", _one_or_endless),
    "max_steps": ("1 or more, or -1 for no end", _one_or_endless),
    "num_nodes": ("1 or more", _one_or_more),
    "log_every_n_steps": ("0 or more", lambda value: value >= 0),
    "accumulate_grad_batches": ("1 or more", _one_or_more),
    "check_val_every_n_epoch": ("1 or more", _one_or_more),
    "limit_train_batches": ("a number of batches from 1, or a part from above 0.0 to 1.0", _part),
    "limit_val_batches": ("a number of batches, or a part from 0.0 to 1.0", _part_or_none),
    "limit_test_batches": ("a number of batches, or a part from 0.0 to 1.0", _part_or_none),
    "val_check_interval": ("a number of batches from 1, or a part of an epoch from above 0.0 to 1.0", _part),
    "gradient_clip_val": ("a number of at least 0", lambda value: 0 <= value < math.inf),
    "num_sanity_val_steps": ("0 or more, or -1 for all", lambda value: value >= -1),
    "reload_dataloaders_every_n_epochs": ("0 or more", lambda value: value >= 0),
    "fast_dev_run": ("true, false, or a number of batches", lambda value: value >= 0),
}


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Raises UsageError where a setting of the Trainer has a value with which it cannot train."""
    for name, (allowed, is_right) in _ALLOWED.items():
        value = settings.get(name)
        if isinstance(value, int | float) and not is_right(value):
            raise UsageError(f"trainer.{name} is {value}: give {allowed}.")
    if str(settings.get("precision")) not in ("None", "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed"):
        raise UsageError(
            f"trainer.precision is {settings['precision']}, but images and noise are float32: "
            "give 32-true, bf16-mixed or 16-mixed."
        )
    if re.fullmatch(r"[0:]+", str(settings.get("max_time"))):
        raise UsageError(f"trainer.max_time is {settings['max_time']}: give more than no time.")
    for name, instead in (("overfit_batches", "give trainer.limit_train_batches"), ("barebones", "leave it out")):
        if settings.get(name):
            raise UsageError(f"trainer.{name} is {settings[name]}, which condgen does not support: {instead}.")


def check_plugins(plugins: Sequence[Any]) -> Sequence[Any]:
    """Raises UsageError if a plugin sets the precision or writes the checkpoints, and returns the plugins."""
    for plugin in plugins:
        if isinstance(plugin, Precision):
            raise UsageError(f"trainer.plugins has a {type(plugin).__name__}: give trainer.precision instead.")
        if isinstance(plugin, CheckpointIO):
            raise UsageError(
                f"trainer.plugins has a {type(plugin).__name__}, but condgen writes checkpoints itself, "
                "so that a kill leaves no half-written one: leave it out."
            )
    return plugins


def check_strategy(strategy: Strategy, setting: Any) -> None:
    """Raises UsageError unless condgen's promises hold under a strategy of Lightning, given as ``setting``.

    A strategy that forks or spawns its processes trains in children, of which the parent learns neither the step nor
    the checkpoints; one that shards the weights has no process that could sample or save alone.
    """
    is_plain = isinstance(strategy, SingleDeviceStrategy | DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)
    if not is_plain or isinstance(strategy.launcher, _MultiProcessingLauncher):
        raise UsageError(
            f"trainer.strategy is {setting}, which condgen does not support: give auto for one device, ddp for several."
        )


def name_trainer_setting(error: Exception, settings: Mapping[str, Any]) -> UsageError:
    """What Lightning says of a setting, with the setting's full name and its value before it."""
    text = " ".join(str(error).split()) or type(error).__name__
    named = [name for name in settings if re.search(rf"\b{name}\b", text)]
    meant = [name for name in ("strategy", "max_time") if str(settings.get(name)).lower() in text.lower()]
    meant += ["accelerator"] if settings.get("accelerator") not in (None, "auto", "cpu") else []
    where = min(named, key=text.index, default=next(iter(meant), None))
    return UsageError(f"trainer.{where} is {settings[where]}: {text}" if where else f"trainer: {text}")


def raised_by_lightning(error: Exception) -> bool:
    """Whether an exception comes from Lightning's own code: it then speaks of a setting."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals["__name__"].startswith("lightning.")
