"""The overhead of `condgen fit`: sample grids, logging, checkpoints, progress bar, and checks of gradients."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Costs(Callback):
    """Writes the seconds of each epoch: in total, of callbacks and logging ("costs"), and of the checks for non-finite
    losses and gradients ("checks").

    Lightning's profiler (`--trainer.profiler simple`) measures the callbacks. This callback adds logging to it.

    Args:
        output: the JSON file to write.
    """

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self.so_far: list[tuple[float, float, float]] = []  # at the start of each epoch: time, costs, checks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        connector = trainer._logger_connector
        for owner, name in (
            (pl_module, "log"),
            (connector, "update_train_step_metrics"),
            (connector, "update_train_epoch_metrics"),
            (connector, "log_eval_end_metrics"),
        ):
            setattr(owner, name, self._profiled(trainer, f"[Logging]{name}", getattr(owner, name)))

    def _profiled(self, trainer: Trainer, action: str, call: Any) -> Any:
        def profiled(*args: Any, **kwargs: Any) -> Any:
            with trainer.profiler.profile(action):
                return call(*args, **kwargs)

        return profiled

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        durations: dict[str, list[float]] = trainer.profiler.recorded_durations  # type: ignore[attr-defined]
        spent = {"costs": 0.0, "checks": 0.0}
        for action, seconds in durations.items():
            is_overhead = action.startswith(("[Callback]", "[Logging]"))
            if is_overhead and not action.endswith("on_save_checkpoint"):  # already counted in the hook that saves
                spent["checks" if action.startswith("[Callback]TerminateOnNonFinite") else "costs"] += sum(seconds)
        self.so_far.append((time.perf_counter(), spent["costs"], spent["checks"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)
        pairs = zip(self.so_far, self.so_far[1:], strict=False)
        names = ("seconds", "costs", "checks")
        epochs = [{name: b - a for name, a, b in zip(names, *pair, strict=True)} for pair in pairs]
        self.output.write_text(json.dumps(epochs))
