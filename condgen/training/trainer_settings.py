"""Checks of the Trainer's settings: values that Lightning accepts, but then crashes on or ignores."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch.plugins import CheckpointIO, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from condgen.errors import UsageError


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
