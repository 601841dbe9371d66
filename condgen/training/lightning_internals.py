"""Workarounds that rely on private Lightning attributes, all kept in one place.

They were written for Lightning 2.6. The tests will fail if any of these attributes change in a future release.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from condgen.checkpoints.read import raise_as_incompatible


def ignore_other_checkpoints(trainer: Trainer) -> None:
    """Prevents the trainer from picking up a checkpoint that we didn't pass to it.

    Otherwise, Lightning would automatically resume from ``hpc_ckpt_1.ckpt`` on SLURM, or from a checkpoint saved by
    OnExceptionCheckpoint.
    """
    trainer._checkpoint_connector._parse_ckpt_path = lambda state_fn, ckpt_path, **_: ckpt_path  # type: ignore[method-assign]


def name_checkpoint_in_errors(trainer: Trainer, path: Path | None) -> None:
    """Makes the trainer raise a UsageError with the given path if the checkpoint can't be restored.

    Loops, optimizers, schedulers and callbacks all restore their own state, and can fail with any kind of exception if
    the checkpoint is invalid.
    """
    connector, readable = trainer._checkpoint_connector, raise_as_incompatible(path)
    connector._restore_modules_and_callbacks = readable(connector._restore_modules_and_callbacks)  # type: ignore[method-assign]
    connector.restore_training_state = readable(connector.restore_training_state)  # type: ignore[method-assign]


def resume_between_epochs(trainer: Trainer) -> None:
    """Ensures that we start a new epoch when resuming from an end-of-epoch checkpoint.

    With ``max_steps``, Lightning would go back to the finished epoch and run its epoch-end hooks again.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


def rewind_to_batch_end(fit_loop: dict[str, Any]) -> None:
    """Modifies the fit loop state of a checkpoint in-place so that the current epoch is no longer marked as done.

    When training stops mid-epoch, e.g. because of ``max_steps``, Lightning still marks the epoch as done. Resuming with
    a higher limit would then skip the rest of it.
    """
    for scope in ("total", "current"):
        epochs, batches = fit_loop["epoch_progress"][scope], fit_loop["epoch_loop.batch_progress"][scope]
        epochs["processed"] -= 1
        epochs["completed"] = epochs["processed"]
        batches["completed"] -= 1
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def trains_in_children(strategy: Strategy) -> bool:
    """Checks whether the strategy forks or spawns processes, e.g. ``ddp_spawn`` or ``ddp_notebook``."""
    return isinstance(strategy.launcher, _MultiProcessingLauncher)
