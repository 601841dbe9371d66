"""Signals that stop a training run after saving a checkpoint."""

import signal
from typing import Any

from lightning.pytorch.strategies import Strategy

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StoppedBySignal(BaseException):
    """Exception that is raised after a signal stopped training and the checkpoint was saved.

    Args:
        signum: Number of the signal.
    """

    resume_command = "condgen fit --ckpt_path last"  # the command line sets a more exact one

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGUSR1 into a request to stop. A second one raises KeyboardInterrupt.

    SLURM sends SIGUSR1 before the time limit of a job that was submitted with ``--signal=USR1``.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def install(self) -> None:
        for signum in SIGNALS:
            self._previous_handlers[signum] = signal.signal(signum, self._on_signal)

    def uninstall(self) -> None:
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self._received is not None:
            self.uninstall()
            raise KeyboardInterrupt
        self._received = signum

    def agree(self, strategy: Strategy) -> int | None:
        """Returns the signal if any process has received one, and None otherwise. All processes must call it."""
        if not strategy.reduce_boolean_decision(self._received is not None, all=False):
            return None
        return self._received or signal.SIGINT
