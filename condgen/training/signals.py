"""Signal handling, used to save a checkpoint before training is stopped."""

import signal
from typing import Any

from lightning.pytorch.strategies import Strategy

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StoppedBySignal(BaseException):
    """Raised when training was stopped by a signal, after saving a checkpoint."""

    resume_command = "condgen fit --ckpt_path last"  # the CLI replaces this with the exact command

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopSignals:
    """Catches SIGINT, SIGTERM and SIGUSR1 so that training can stop cleanly. A second signal raises KeyboardInterrupt.

    SIGUSR1 is what SLURM sends shortly before a job's time limit if it was submitted with ``--signal=USR1``.
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
        """Returns the received signal, or None if no process got one. Must be called on all ranks."""
        if not strategy.reduce_boolean_decision(self._received is not None, all=False):
            return None
        return self._received or signal.SIGINT
