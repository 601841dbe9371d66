"""A progress bar with losses, speed, and the time left for the entire run."""

import math
import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from condgen.generators import ConditionalGenerator

SHOW_WITH_TOTAL = 1e-9  # delay in seconds, so that tqdm only shows the bar once it knows the total


class RunProgressBar(TQDMProgressBar):
    """A TQDMProgressBar that also shows the total number of epochs and the time left for all of them."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 100, leave=True)
        self._started = 0.0
        self._batches_before = 0

    def _bar(self, description: str, leave: bool) -> Tqdm:
        return Tqdm(
            desc=description, position=2 * self.process_position, disable=self.is_disabled, leave=leave,
            dynamic_ncols=True, file=sys.stdout, smoothing=0, bar_format=self.BAR_FORMAT, delay=SHOW_WITH_TOTAL,
        )  # fmt: skip

    def init_train_tqdm(self) -> Tqdm:
        return self._bar("Epoch", leave=True)

    def init_validation_tqdm(self) -> Tqdm:
        return self._bar("Validation", leave=False)

    def on_train_start(self, *args: Any) -> None:
        super().on_train_start(*args)
        self._started, self._batches_before = time.monotonic(), self.trainer.fit_loop.total_batch_idx + 1

    def on_exception(self, *args: Any) -> None:
        print(flush=True)  # start the error message on a new line

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        self.train_progress_bar.leave = False  # Lightning creates a new bar for each epoch
        super().on_train_epoch_start(trainer, *args)
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        epochs = trainer.estimated_stepping_batches / steps_per_epoch
        total = f"/{math.ceil(epochs)}" if math.isfinite(epochs) else ""
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}{total}")

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if isinstance(pl_module, ConditionalGenerator) and pl_module.last_train_loss is not None:
            metrics = {"train_loss": pl_module.last_train_loss.item(), **metrics}  # Lightning only shows logged values
        total, done = trainer.estimated_stepping_batches, trainer.fit_loop.total_batch_idx + 1
        if trainer.training and math.isfinite(total) and done > self._batches_before:
            rate = (time.monotonic() - self._started) / (done - self._batches_before)
            left = max(0.0, total * trainer.accumulate_grad_batches - done) * rate
            metrics["run_left"] = str(timedelta(seconds=round(left)))
        return metrics
