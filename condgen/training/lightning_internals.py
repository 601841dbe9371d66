"""The only module that uses private attributes of Lightning.

The functions were written for Lightning 2.6. Each has a reason in its docstring, and a test that fails if Lightning
changes the attribute.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from condgen.checkpoints.read import raise_as_incompatible


def ignore_other_checkpoints(trainer: Trainer) -> None:
    """Makes the trainer load only the checkpoint that is passed to it.

    If no checkpoint is passed, Lightning resumes from an ``hpc_ckpt_1.ckpt`` in a SLURM job, or from a file that
    OnExceptionCheckpoint wrote.
    """
    trainer._checkpoint_connector._parse_ckpt_path = lambda state_fn, ckpt_path, **_: ckpt_path  # type: ignore[method-assign]


def name_checkpoint_in_errors(trainer: Trainer, path: Path | None) -> None:
    """Makes the trainer raise a UsageError that names the checkpoint ``path`` if it cannot be restored.

    Lightning passes the content of a checkpoint to loops, optimizers, schedulers and callbacks. If the content is
    invalid, they can raise any type of exception.
    """
    connector, readable = trainer._checkpoint_connector, raise_as_incompatible(path)
    connector._restore_modules_and_callbacks = readable(connector._restore_modules_and_callbacks)  # type: ignore[method-assign]
    connector.restore_training_state = readable(connector.restore_training_state)  # type: ignore[method-assign]


def resume_between_epochs(trainer: Trainer) -> None:
    """Makes the trainer start the next epoch if the checkpoint is from the end of an epoch.

    With ``max_steps``, Lightning would otherwise resume within the finished epoch and repeat its epoch-end hooks.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


def rewind_to_batch_end(fit_loop: dict[str, Any]) -> None:
    """Changes the saved state of a fit loop from "epoch finished" to "last batch finished".

    If a limit such as ``max_steps`` ends training within an epoch, Lightning counts the epoch as finished. A resumed
    run with a higher limit would then skip the rest of the epoch.

    Args:
        fit_loop: State of the fit loop in a checkpoint. It is changed in place.
    """
    for scope in ("total", "current"):
        epochs, batches = fit_loop["epoch_progress"][scope], fit_loop["epoch_loop.batch_progress"][scope]
        epochs["processed"] -= 1
        epochs["completed"] = epochs["processed"]
        batches["completed"] -= 1
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def trains_in_children(strategy: Strategy) -> bool:
    """Returns whether the strategy trains in forked or spawned processes, like ``ddp_spawn`` and ``ddp_notebook``."""
    return isinstance(strategy.launcher, _MultiProcessingLauncher)
