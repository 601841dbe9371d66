"""``last.ckpt`` and ``best.ckpt``: when they are written, also when the run is told to stop.

Lightning's ModelCheckpoint defers a step save until validation, and a save at an epoch's last batch makes the resumed
run skip that epoch's validation; these rules are simpler and have neither.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import rank_zero_warn

from condgen.errors import UsageError, check_number
from condgen.files.atomic import atomic_write


class Stopped(BaseException):
    """The run was told to stop by a signal, and has saved.

    Args:
        signum: the signal.
    """

    resume_command = "condgen fit --ckpt_path last"  # the command line knows a better one

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def check_monitor(setting: str, monitor: str, logged: Collection[str]) -> None:
    """Raises UsageError unless the value ``monitor``, which a setting names, is among those that are logged."""
    if monitor not in logged:
        raise UsageError(f"{setting} is {monitor}, which is not logged: give one of {', '.join(sorted(logged))}.")


def _validates_anyway(trainer: Trainer) -> bool:
    """Whether the validation after this batch would also take place if nothing had asked to stop."""
    if trainer.is_last_batch or trainer.val_check_batch is None:
        return True
    loop = trainer.fit_loop.epoch_loop
    batches = 1 + (loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx)
    return batches % trainer.val_check_batch == 0


class RunCheckpoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` at every epoch's end, and ``best.ckpt`` where the epoch was the best so far.

    The first Ctrl-C, SIGTERM or SIGUSR1 (which SLURM's ``--signal=USR1`` sends before the time limit) lets the batch
    finish (the epoch, if it was its last batch), saves and stops with :class:`Stopped`; a second one stops at once.
    With several processes, any of them may get the signal.

    Args:
        monitor: the logged value by which the best epoch is chosen.
        mode: whether the best value is the smallest (``min``) or the largest (``max``).
        every_n_train_steps: also write ``last.ckpt`` after every so many batches.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: Literal["min", "max"] = "min",
        every_n_train_steps: int | None = None,
    ) -> None:
        if every_n_train_steps is not None:
            check_number("checkpoint.every_n_train_steps", every_n_train_steps, at_least=1)
        best = "min" if monitor == "score_frechet_distance" else "max"
        if monitor.startswith("score_") and mode != best:
            raise UsageError(f"checkpoint.mode is {mode}, but the best {monitor} is the {best}: give {best}.")
        self.monitor, self.mode, self.every_n_train_steps = monitor, mode, every_n_train_steps
        self.best: float | None = None
        self._is_best = False  # whether the checkpoint that is written is the best so far
        self._latest_is_best = False  # whether the latest epoch was
        self.directory = Path()
        self._first_open_step = 0
        self._seconds = 0.0  # of training before this process
        self._began: float | None = None  # when this process began to train
        self._checked = False
        self._received: int | None = None
        self._stopping: int | None = None
        self._due = False  # whether last.ckpt is to be written after the next step
        self._gathered: dict[str, Any] | None = None
        self._validated = False  # whether this epoch was, so far
        self._value: float | None = None  # of the monitor, then
        self._extra_validation = False  # whether only an early stop within the epoch caused that validation
        self._extra_rows: list[str] = []  # what metrics.csv has of the last step only because of an early stop
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "mode": self.mode,
            "best": self.best,
            "is_best": self._is_best,
            "checked": self._checked,
            "validated": self._validated,
            "value": self._value,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        same = (state_dict["monitor"], state_dict["mode"]) == (self.monitor, self.mode)
        self._checked = same and state_dict.get("checked", False)
        if same:
            self._validated, self._value = state_dict.get("validated", False), state_dict.get("value")
        if same and (self.directory / "last.ckpt").is_file():  # else another run's best, which this one has not got
            self.best, self._is_best = state_dict["best"], state_dict.get("is_best", False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        seconds = self._seconds + (0.0 if self._began is None else time.monotonic() - self._began)
        checkpoint.setdefault("condgen", {}).update(
            first_open_step=self._first_open_step,
            extra_rows=self._extra_rows,
            train_seconds=seconds,
        )
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        is_between_epochs = 0 < epochs["current"]["processed"] == epochs["current"]["started"]
        if is_between_epochs and not batches["is_last_batch"]:
            # A limit came before the epoch's end: a longer training goes on within the epoch, as after its last batch.
            for reach in ("total", "current"):
                epochs[reach]["processed"] -= 1
                batches[reach]["completed"] -= 1
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._seconds = float(checkpoint["condgen"].get("train_seconds", 0))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.directory = Path(str(trainer.log_dir)) / "checkpoints"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._handlers[signum] = signal.signal(signum, self._on_signal)
        self._began = time.monotonic()
        progress, batches = trainer.fit_loop.epoch_loop.batch_progress, trainer.num_training_batches
        if not progress.is_last_batch and progress.current.ready >= batches:
            raise UsageError(
                f"The checkpoint is from after batch {progress.current.ready} of its epoch, but "
                f"trainer.limit_train_batches ends the epoch after {batches}: give more, or leave it out."
            )
        self._copy_best(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()
        if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self._is_best = self._latest_is_best
            trainer.save_checkpoint(self.directory / "last.ckpt", weights_only=False)  # it has just set its averages
            self._copy_best(trainer)
        if trainer.is_global_zero and not (self.directory / "best.ckpt").is_file():
            rank_zero_warn(f"There is no best.ckpt: no epoch had a {self.monitor}.")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self._received is not None:
            self._restore_handlers()
            raise KeyboardInterrupt
        self._received = signum

    def _restore_handlers(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._agree_on_stop(trainer)
        batches = trainer.fit_loop.total_batch_idx + 1
        self._due |= bool(self.every_n_train_steps and batches % self.every_n_train_steps == 0)
        if trainer.is_last_batch or trainer.fit_loop._should_accumulate():
            return  # the epoch's end saves; gathered gradients are in no checkpoint
        if self._stopping or self._due:
            # Lightning wants it gathered here, but logs and validates only after this hook: written now, a kill in
            # between would lose that. Until the next batch nothing else that was gathered changes.
            self._due = False
            self._first_open_step = trainer.fit_loop.epoch_loop._batches_that_stepped + 1
            self._gathered = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._gathered is not None:
            self._gathered["callbacks"] = call._call_callbacks_state_dict(trainer)  # they may have seen a validation
            trainer.strategy.save_checkpoint(self._gathered, self.directory / "last.ckpt")
            trainer.strategy.barrier("checkpoint written")
            self._gathered = None
            if self._stopping:
                self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            logged = {"train_loss", "train_loss_epoch"} | trainer.callback_metrics.keys()
            monitors = {"checkpoint.monitor": self.monitor}
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, EarlyStopping) and callback.strict:
                    monitors["trainer.callbacks.monitor"] = callback.monitor
            for setting, monitor in monitors.items():
                if not monitor.startswith("train_"):  # logged only once training has begun
                    check_monitor(setting, monitor, logged)
                    self._checked |= setting == "checkpoint.monitor"
        else:
            value = trainer.callback_metrics.get(self.monitor)
            self._validated, self._value = True, None if value is None else float(value)
            self._extra_validation = trainer.should_stop and not _validates_anyway(trainer)
            self._checked |= value is not None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_open_step, self._gathered = trainer.fit_loop.epoch_loop._batches_that_stepped, None
        self._extra_rows = self._find_extra_rows(trainer)
        validated, value = self._validated, trainer.callback_metrics.get(self.monitor, self._value)
        self._is_best = validated and value is not None and self._is_better(float(value))
        if self._extra_validation:  # an uninterrupted run lacks it, so it decides only until another one does
            self._is_best &= self.best is None
        elif self._is_best:
            self.best = float(value)  # type: ignore[arg-type]
        self._latest_is_best = self._is_best
        if trainer.is_last_batch or self._extra_validation:
            self._validated, self._value = False, None
        if trainer.is_last_batch:  # else a limit ends the run within an epoch
            self._due = False
        trainer.save_checkpoint(self.directory / "last.ckpt", weights_only=False)
        self._copy_best(trainer)
        self._extra_validation, self._extra_rows = False, []
        if validated and not self._checked:
            check_monitor("checkpoint.monitor", self.monitor, trainer.callback_metrics.keys())
            self._checked = True  # not every epoch needs to have it
        self._agree_on_stop(trainer)
        is_over = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if self._stopping and not is_over:
            self._stop()

    def _find_extra_rows(self, trainer: Trainer) -> list[str]:
        """A column of each row that an uninterrupted run would not have: Lightning logs and validates once more if
        something asked to stop."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged_anyway = bool(every) and self._first_open_step % every == 0
        train = ["train_loss"] if trainer.should_stop and not is_logged_anyway else []
        return train + (["val_loss"] if self._extra_validation else [])

    def _copy_best(self, trainer: Trainer) -> None:
        """Makes last.ckpt best.ckpt too, where it is the best; also after a kill between the two."""
        if self._is_best and trainer.is_global_zero:
            with open(self.directory / "last.ckpt", "rb") as last, atomic_write(self.directory / "best.ckpt") as best:
                shutil.copyfileobj(last, best, 1 << 20)
        self._is_best = False

    def _agree_on_stop(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            self._stopping = self._received or signal.SIGINT

    def _stop(self) -> NoReturn:
        assert self._stopping is not None
        raise Stopped(self._stopping)

    def _is_better(self, value: float) -> bool:
        return math.isfinite(value) and (
            self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        )
