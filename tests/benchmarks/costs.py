"""What `condgen fit` does beside training and validation: how long it takes for grids, logging, checkpoints, progress,
and for the check of each gradient."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Costs(Callback):
    """Writes for each epoch its seconds, those of them that callbacks and logging took, and those of the checks of
    losses and gradients.

    Lightning's profiler (`--trainer.profiler simple`) knows the callbacks' times; logging is added to it here.

    Args:
        output: a JSON file for the epochs.
    """

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self.so_far: list[tuple[float, float, float]] = []  # at each epoch's start: time, seconds of costs, of checks

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
        spent = {"costs": 0.0, "checks": 0.0}
        for action, seconds in durations.items():
            beside = action.startswith(("[Callback]", "[Logging]"))
            if beside and not action.endswith("on_save_checkpoint"):  # that is within the hook that saves
                spent["checks" if action.startswith("[Callback]TerminateOnNonFinite") else "costs"] += sum(seconds)
        self.so_far.append((time.perf_counter(), spent["costs"], spent["checks"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)
        pairs = zip(self.so_far, self.so_far[1:], strict=False)
        names = ("seconds", "costs", "checks")
        epochs = [{name: b - a for name, a, b in zip(names, *pair, strict=True)} for pair in pairs]
        self.output.write_text(json.dumps(epochs))
