"""Lightning's Trainer, with its files in a run directory, and what its settings may be."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback


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
