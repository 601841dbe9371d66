"""A Lightning Trainer with support for run directories."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback


def is_accumulating(trainer: Trainer) -> bool:
    """Checks whether gradients are being accumulated, i.e. there was no optimizer step in the latest batch."""
    batches = trainer.fit_loop.batch_idx + 1
    is_last = trainer.is_last_batch or batches == trainer.num_training_batches
    return batches % trainer.accumulate_grad_batches != 0 and not is_last


class RunTrainer(Trainer):
    """A Trainer that saves everything to a run directory, regardless of which loggers are used."""

    run_directory: Path | None = None
    callbacks: list[Callback]  # this and the next one are missing from Lightning's type hints
    fast_dev_run: int | bool
    _stop_requested = False

    @property
    def should_stop(self) -> bool:
        """Whether training should stop.

        If requested while accumulating gradients, we wait for the next optimizer step, since gradients are not saved in
        checkpoints.
        """
        return self._stop_requested and not is_accumulating(self)

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        # make sure that `should_stop = should_stop or x` doesn't clear a pending request
        is_pending = self._stop_requested and is_accumulating(self)
        self._stop_requested = value or is_pending

    @property
    def log_dir(self) -> str | None:
        """The run directory. As in Lightning, this must be accessed on all ranks."""
        return self.strategy.broadcast(None if self.run_directory is None else str(self.run_directory))
