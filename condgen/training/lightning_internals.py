"""The only module that uses private parts of Lightning. They were read in version 2.6; each has a reason and a test."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from condgen.checkpoints.read import raise_as_incompatible


def ignore_other_checkpoints(trainer: Trainer) -> None:
    """Makes the trainer load the checkpoint that it is given, and none if it is given none.

    Without one, Lightning resumes from any ``hpc_ckpt_1.ckpt`` in a SLURM job, and from the file of an
    OnExceptionCheckpoint.
    """
    trainer._checkpoint_connector._parse_ckpt_path = lambda state_fn, ckpt_path, **_: ckpt_path  # type: ignore[method-assign]


def name_checkpoint_in_errors(trainer: Trainer, path: Path | None) -> None:
    """Makes the trainer raise UsageError if it cannot restore the checkpoint ``path``.

    Lightning passes the content to loops, optimizers, schedulers and callbacks, which raise whatever it leads to.
    """
    connector, readable = trainer._checkpoint_connector, raise_as_incompatible(path)
    connector._restore_modules_and_callbacks = readable(connector._restore_modules_and_callbacks)  # type: ignore[method-assign]
    connector.restore_training_state = readable(connector.restore_training_state)  # type: ignore[method-assign]


def resume_between_epochs(trainer: Trainer) -> None:
    """Makes the trainer start the next epoch if the checkpoint is from the end of one, also with ``max_steps``.

    With ``max_steps``, Lightning resumes within the finished epoch and repeats its epoch-end hooks.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


def rewind_to_batch_end(fit_loop: dict[str, Any]) -> None:
    """Changes the saved state of a fit loop from the end of an epoch to the end of the epoch's latest batch.

    If a limit such as ``max_steps`` ends the training within an epoch, Lightning counts the epoch as finished, and a
    longer training would continue with the next one.
    """
    for scope in ("total", "current"):
        epochs, batches = fit_loop["epoch_progress"][scope], fit_loop["epoch_loop.batch_progress"][scope]
        epochs["processed"] -= 1
        epochs["completed"] = epochs["processed"]
        batches["completed"] -= 1
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def trains_in_children(strategy: Strategy) -> bool:
    """Returns whether the strategy trains in forked or spawned processes, as ``ddp_spawn`` and ``ddp_notebook`` do."""
    return isinstance(strategy.launcher, _MultiProcessingLauncher)
