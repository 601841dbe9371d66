"""The checkpoint callback, which also handles signals like Ctrl-C.

We don't use Lightning's ModelCheckpoint for two reasons. When monitoring a value, it delays mid-epoch checkpoints until
the next validation. And if it saves on the last batch of an epoch, the validation for that epoch is skipped on resume.
"""

import math
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_warn

from condgen.checkpoints.read import check_optimizer_states
from condgen.errors import UsageError, check_number
from condgen.files.atomic import atomic_write
from condgen.training.lightning_internals import rewind_to_batch_end
from condgen.training.loggers import MetricsLogger
from condgen.training.signals import StoppedBySignal, StopSignals
from condgen.training.trainer import is_accumulating


def check_monitor(setting: str, monitor: str, logged: Collection[str]) -> None:
    """Raises a UsageError if the monitored metric is never logged.

    Args:
        setting: The option that was used to set ``monitor``, for the error message.
        monitor: Name of the metric to monitor.
        logged: Names of all logged metrics.
    """
    if monitor not in logged:
        raise UsageError(f"{setting} is {monitor}, which is not logged: give one of {', '.join(sorted(logged))}.")


def _is_regular_validation(trainer: Trainer) -> bool:
    """Checks whether validation is scheduled after this batch anyway, i.e. not just because training was stopped."""
    if trainer.is_last_batch or trainer.val_check_batch is None:
        return True
    loop = trainer.fit_loop
    batches = 1 + (loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx)
    return batches % trainer.val_check_batch == 0


def _logged_steps(trainer: Trainer) -> int:
    """Returns the number of steps logged so far. With manual optimization, every batch counts as a step."""
    is_automatic = trainer.lightning_module.automatic_optimization
    return trainer.global_step if is_automatic else trainer.fit_loop.total_batch_idx + 1


class LastAndBestCheckpoint(Checkpoint):
    """Saves ``checkpoints/last.ckpt`` after every epoch, and keeps the best epoch so far in ``best.ckpt``.

    On SIGINT (Ctrl-C), SIGTERM or SIGUSR1, all processes finish the current batch, save ``last.ckpt`` and raise
    :class:`StoppedBySignal`, even if only one of them received the signal. After the last batch of an epoch, they
    complete the epoch first. A second signal stops the process immediately.

    Args:
        monitor: The metric used to find the best epoch.
        mode: Whether lower (``min``) or higher (``max``) values of the metric are better.
        every_n_train_steps: If set, ``last.ckpt`` is also saved every n batches during an epoch.

    Raises:
        UsageError: If any of the arguments is invalid.
    """

    def __init__(
        self, monitor: str = "val_loss", mode: Literal["min", "max"] = "min", every_n_train_steps: int | None = None
    ) -> None:
        if every_n_train_steps is not None:
            check_number("checkpoint.every_n_train_steps", every_n_train_steps, at_least=1)
        best = "min" if monitor == "score_frechet_distance" else "max"
        if monitor.startswith("score_") and mode != best:
            raise UsageError(f"checkpoint.mode is {mode}, but the best {monitor} is the {best}: give {best}.")
        self.monitor, self.mode, self.every_n_train_steps = monitor, mode, every_n_train_steps
        self.directory = Path()
        self.best: float | None = None
        self._is_best = False  # whether last.ckpt is the best epoch so far
        self._value: float | None = None  # monitored value from the latest validation in this epoch, or NaN
        self._extra_validation = False  # whether we only validated because training was stopped
        self._extra_rows: list[str] = []
        self._next_step = 0  # where logging continues after a resume
        self._is_due = False  # whether to save after the next optimizer step
        self._batch_end: dict[str, Any] | None = None  # fit loop state for a checkpoint that has yet to be written
        self._optimizer_states: list[Any] | None = None  # from the checkpoint being loaded
        self._seconds = 0.0  # training time before resuming
        self._started: float | None = None  # when this process started training
        self._signals = StopSignals()
        self._stop_signal: int | None = None

    # Checkpoint contents

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "mode": self.mode,
            "best": self.best,
            "is_best": self._is_best,
            "value": self._value,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if (state_dict["monitor"], state_dict["mode"]) != (self.monitor, self.mode):
            return
        self._value = state_dict["value"]
        if (self.directory / "last.ckpt").is_file():  # otherwise best.ckpt belongs to a different run
            self.best, self._is_best = state_dict["best"], state_dict["is_best"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        seconds = self._seconds + (0.0 if self._started is None else time.monotonic() - self._started)
        checkpoint.setdefault("condgen", {}).update(
            first_open_step=self._next_step, extra_rows=self._extra_rows, train_seconds=seconds
        )
        loops = checkpoint["loops"]
        if self._batch_end is not None:
            loops["fit_loop"] = self._batch_end
            return
        epochs = loops["fit_loop"]["epoch_progress"]["current"]
        if 0 < epochs["processed"] == epochs["started"] and not trainer.is_last_batch:
            rewind_to_batch_end(loops["fit_loop"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._seconds = float(checkpoint["condgen"].get("train_seconds", 0))
        self._optimizer_states = checkpoint["optimizer_states"]

    # Start and end of training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.directory = Path(str(trainer.log_dir)) / "checkpoints"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._optimizer_states is not None:
            check_optimizer_states(self._optimizer_states, trainer.optimizers, trainer.ckpt_path)
            self._optimizer_states = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.install()
        self._started = time.monotonic()
        done, batches = trainer.fit_loop.batch_idx + 1, trainer.num_training_batches
        if not trainer.is_last_batch and done >= batches:
            raise UsageError(
                f"The checkpoint was saved after batch {done} of an epoch, but trainer.limit_train_batches ends each "
                f"epoch after {batches}: give a larger limit, or leave it out."
            )
        self._copy_best(trainer)  # in case the process was killed before it could write best.ckpt
        for logger in trainer.loggers:
            if isinstance(logger, MetricsLogger):
                logger.resume()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.uninstall()
        if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._save(trainer)  # SWA has only just swapped in the averaged weights
            self._copy_best(trainer)
        if trainer.is_global_zero and not (self.directory / "best.ckpt").is_file():
            rank_zero_warn(f"There is no best.ckpt, because no epoch had a finite {self.monitor}.")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._signals.uninstall()

    # Mid-epoch checkpoints

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stop_signal = self._stop_signal or self._signals.agree(trainer.strategy)
        every = self.every_n_train_steps
        self._is_due |= every is not None and (trainer.fit_loop.total_batch_idx + 1) % every == 0
        if trainer.is_last_batch or is_accumulating(trainer):
            return  # saved at the end of the epoch, or once there are no more accumulated gradients
        if self._stop_signal or self._is_due:
            # Lightning logs and validates after this hook, and we'd lose that if we saved here and the process was then
            # killed. Instead, capture the loop state while Lightning can still resume from it, and write the checkpoint
            # at the start of the next batch.
            self._is_due = False
            self._next_step, self._batch_end = _logged_steps(trainer), trainer.fit_loop.state_dict()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._is_best = False  # mid-epoch checkpoints never count as the best
        if self._batch_end is not None:
            self._save(trainer)
            self._batch_end = None
            if self._stop_signal:
                raise StoppedBySignal(self._stop_signal)

    # End-of-epoch checkpoints

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            self._check_monitors(trainer)
            return
        self._value = float(trainer.callback_metrics.get(self.monitor, math.nan))
        self._extra_validation = trainer.should_stop and not _is_regular_validation(trainer)

    def _check_monitors(self, trainer: Trainer) -> None:
        """Checks that all monitored metrics exist, except for ``train_…``, which doesn't show up until later."""
        monitors = {"checkpoint.monitor": self.monitor}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and callback.strict:
                monitors["trainer.callbacks.monitor"] = callback.monitor
        for setting, monitor in monitors.items():
            if not monitor.startswith("train_"):
                check_monitor(setting, monitor, {"train_loss", "train_loss_epoch", *trainer.callback_metrics})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._next_step, self._batch_end = _logged_steps(trainer), None
        self._extra_rows = self._find_extra_rows(trainer)
        is_validated = self._value is not None
        value = math.nan if self._value is None else float(trainer.callback_metrics.get(self.monitor, self._value))
        self._is_best = self._is_better(value)
        if self._extra_validation:  # an uninterrupted run wouldn't have it, so only use it as a last resort
            self._is_best &= self.best is None
        elif self._is_best:
            self.best = value
        if trainer.is_last_batch or self._extra_validation:
            self._value = None
        if trainer.is_last_batch:  # otherwise, training stopped mid-epoch because of e.g. max_steps
            self._is_due = False
        self._save(trainer)
        self._copy_best(trainer)
        self._extra_validation, self._extra_rows = False, []
        if is_validated and self.best is None and self.monitor.startswith("train_"):
            check_monitor("checkpoint.monitor", self.monitor, trainer.callback_metrics)
        self._stop_signal = self._stop_signal or self._signals.agree(trainer.strategy)
        is_over = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if self._stop_signal and not is_over:
            raise StoppedBySignal(self._stop_signal)

    def _find_extra_rows(self, trainer: Trainer) -> list[str]:
        """Finds the rows in ``metrics.csv`` that are only there because a callback stopped training early.

        Lightning logs and validates one more time in this case. An uninterrupted run wouldn't have these rows, so we
        drop them on resume. Returns the name of a non-empty column for each of them.
        """
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_regular_row = bool(every) and self._next_step % every == 0
        train = ["train_loss"] if trainer.should_stop and not is_regular_row else []
        return train + (["val_loss"] if self._extra_validation else [])

    def _is_better(self, value: float) -> bool:
        return math.isfinite(value) and (
            self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        )

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.directory / "last.ckpt", weights_only=False)

    def _copy_best(self, trainer: Trainer) -> None:
        """Copies ``last.ckpt`` to ``best.ckpt`` if it is the best epoch so far."""
        if self._is_best and trainer.is_global_zero:
            with open(self.directory / "last.ckpt", "rb") as last, atomic_write(self.directory / "best.ckpt") as best:
                shutil.copyfileobj(last, best, 1 << 20)
