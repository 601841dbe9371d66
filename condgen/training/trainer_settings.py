"""Checks of Trainer settings that Lightning accepts, but then crashes on, ignores, or treats as "no training"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch.plugins import CheckpointIO, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy

from condgen.errors import UsageError
from condgen.training.lightning_internals import trains_in_children

Allowed = tuple[str, Callable[[float], bool]]  # in words, and as a check

AT_LEAST_0: Allowed = ("0 or more", lambda value: value >= 0)
AT_LEAST_1: Allowed = ("1 or more", lambda value: value >= 1)
LIMIT: Allowed = ("1 or more, or -1 for no end", lambda value: value >= 1 or value == -1)
PART: Allowed = (
    "a number of batches from 1, or a part of an epoch from above 0.0 to 1.0",
    lambda value: 0 < value <= 1 or (value > 1 and value % 1 == 0),
)
PART_OR_NONE: Allowed = (
    "a number of batches, or a part from 0.0 to 1.0",
    lambda value: 0 <= value <= 1 or (value > 1 and value % 1 == 0),
)
ALLOWED = {
    "max_epochs": LIMIT,
    "max_steps": LIMIT,
    "num_nodes": AT_LEAST_1,
    "log_every_n_steps": AT_LEAST_0,
    "accumulate_grad_batches": AT_LEAST_1,
    "check_val_every_n_epoch": AT_LEAST_1,
    "limit_train_batches": PART,
    "limit_val_batches": PART_OR_NONE,
    "limit_test_batches": PART_OR_NONE,
    "val_check_interval": PART,
    "gradient_clip_val": ("a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "num_sanity_val_steps": ("0 or more, or -1 for all", lambda value: value >= -1),
    "reload_dataloaders_every_n_epochs": AT_LEAST_0,
    "fast_dev_run": ("true, false, or a number of batches", lambda value: value >= 0),
}


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Raises UsageError if the Trainer cannot train with one of its settings."""
    for name, (allowed, is_allowed) in ALLOWED.items():
        value = settings.get(name)
        if isinstance(value, int | float) and not is_allowed(value):
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
    """Returns the plugins, or raises UsageError if one of them sets the precision or writes checkpoints."""
    for plugin in plugins:
        if isinstance(plugin, Precision):
            raise UsageError(f"trainer.plugins has a {type(plugin).__name__}: give trainer.precision instead.")
        if isinstance(plugin, CheckpointIO):
            raise UsageError(
                f"trainer.plugins has a {type(plugin).__name__}, but condgen writes its checkpoints atomically itself: "
                "leave it out."
            )
    return plugins


def check_strategy(strategy: Strategy, setting: Any) -> None:
    """Raises UsageError if condgen does not support a strategy, which was given as ``setting``.

    The parent of forked or spawned processes does not learn the step and the checkpoints of its children. If a strategy
    shards the weights, no process can sample or save alone.
    """
    is_data_parallel = isinstance(strategy, DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)
    if not (is_data_parallel or isinstance(strategy, SingleDeviceStrategy)) or trains_in_children(strategy):
        raise UsageError(
            f"trainer.strategy is {setting}, which condgen does not support: give auto for one device, ddp for several."
        )
