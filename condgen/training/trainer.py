"""Lightning's Trainer, extended by a run directory."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback


def is_accumulating(trainer: Trainer) -> bool:
    """Returns whether the latest batch ended without an optimizer step because of ``accumulate_grad_batches``."""
    batches = trainer.fit_loop.batch_idx + 1
    is_last = trainer.is_last_batch or batches == trainer.num_training_batches
    return batches % trainer.accumulate_grad_batches != 0 and not is_last


class RunTrainer(Trainer):
    """A Trainer that writes its files into a run directory, which does not depend on the loggers."""

    run_directory: Path | None = None
    callbacks: list[Callback]  # Lightning sets this attribute and the next one without declaring them
    fast_dev_run: int | bool
    _stop_requested = False

    @property
    def should_stop(self) -> bool:
        """Whether a callback requested a stop and no accumulated gradients are pending.

        If gradients are pending, the stop waits for the optimizer step, because checkpoints do not contain gradients.
        """
        return self._stop_requested and not is_accumulating(self)

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        # `should_stop = should_stop or x` must not clear a request that waits for the optimizer step
        is_pending = self._stop_requested and is_accumulating(self)
        self._stop_requested = value or is_pending

    @property
    def log_dir(self) -> str | None:
        """Path to the run directory. As in Lightning, all processes must read this property."""
        return self.strategy.broadcast(None if self.run_directory is None else str(self.run_directory))
