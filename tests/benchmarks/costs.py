"""What `condgen fit` does beside training and validation: how long grids, logging, checkpoints and progress take."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Costs(Callback):
    """Writes for each epoch its seconds, and those of them that callbacks and logging took.

    Lightning's profiler (`--trainer.profiler simple`) knows the callbacks' times; logging is added to it here.

    Args:
        output: a JSON file for the epochs.
    """

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self.so_far: list[tuple[float, float]] = []  # at the start of each epoch: what time it is, seconds of costs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        connector = trainer._logger_connector
        for where, name in (
            (pl_module, "log"),
            (connector, "update_train_step_metrics"),
            (connector, "update_train_epoch_metrics"),
            (connector, "log_eval_end_metrics"),
        ):
            setattr(where, name, self._profiled(trainer, f"[Logging]{name}", getattr(where, name)))

    def _profiled(self, trainer: Trainer, action: str, call: Any) -> Any:
        def profiled(*args: Any, **kwargs: Any) -> Any:
            with trainer.profiler.profile(action):
                return call(*args, **kwargs)

        return profiled

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        durations: dict[str, list[float]] = trainer.profiler.recorded_durations  # type: ignore[attr-defined]
        costs = sum(
            sum(seconds)
            for action, seconds in durations.items()
            if action.startswith(("[Callback]", "[Logging]")) and not action.endswith("on_save_checkpoint")
        )  # that is within the hook that saves
        self.so_far.append((time.perf_counter(), costs))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)
        pairs = zip(self.so_far, self.so_far[1:], strict=False)
        epochs = [{"seconds": b[0] - a[0], "costs": b[1] - a[1]} for a, b in pairs]
        self.output.write_text(json.dumps(epochs))
