"""Catches Trainer settings that Lightning accepts, only to ignore them, crash, or not train at all."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.plugins import CheckpointIO, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy

from condgen.errors import UsageError, check_number
from condgen.training.lightning_internals import trains_in_children

MINIMUM = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "num_sanity_val_steps": -1,
}
NOT_ZERO = {
    "max_epochs": "1 or more, or -1 for no end",
    "max_steps": "1 or more, or -1 for no end",
    "limit_train_batches": "a number of batches from 1, or a share from above 0.0 to 1.0",
    "val_check_interval": "a number of batches from 1, or a share of the epoch from above 0.0 to 1.0",
}


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Raises a UsageError if any of the Trainer settings is not supported."""
    numbers = {name: value for name, value in settings.items() if isinstance(value, int | float)}
    for name, allowed in NOT_ZERO.items():
        if numbers.get(name) == 0:
            raise UsageError(f"trainer.{name} is 0: give {allowed}.")
    for name in [name for name in MINIMUM if name in numbers]:
        check_number(f"trainer.{name}", numbers[name], at_least=MINIMUM[name])
    if str(settings.get("precision")) not in ("None", "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed"):
        raise UsageError(
            f"trainer.precision is {settings['precision']}, but images and noise are float32: "
            "give 32-true, bf16-mixed or 16-mixed."
        )
    if re.fullmatch(r"[0:]+", str(settings.get("max_time"))):
        raise UsageError(f"trainer.max_time is {settings['max_time']}: give a time longer than zero.")
    for name, instead in (("overfit_batches", "give trainer.limit_train_batches"), ("barebones", "leave it out")):
        if settings.get(name):
            raise UsageError(f"trainer.{name} is {settings[name]}, which condgen does not support: {instead}.")


def check_plugins(plugins: Sequence[Any]) -> Sequence[Any]:
    """Returns the plugins unchanged. Raises a UsageError for any precision or checkpoint plugins."""
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
    """Raises a UsageError if the strategy is not supported.

    We can't fork or spawn processes, because the parent process would never know about the current step or checkpoint
    paths. Sharding the weights doesn't work either, because a single process needs to be able to sample and save.

    Args:
        strategy: The Trainer's strategy.
        setting: The value of ``trainer.strategy`` to show in the error message.
    """
    is_data_parallel = isinstance(strategy, DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)
    if not (is_data_parallel or isinstance(strategy, SingleDeviceStrategy)) or trains_in_children(strategy):
        raise UsageError(
            f"trainer.strategy is {setting}, which condgen does not support: give auto for one device, ddp for several."
        )
