"""Training steps of `condgen fit`, which a bare loop of the same operations interrupts to take its turn."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import machine
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from condgen.generators.ema import EMAGenerator


class Alone:
    """What a family asks of its trainer in a training step, where there is none."""

    world_size, global_rank, training, current_epoch = 1, 0, True, 0
    is_last_batch = should_stop = False
    log_every_n_steps = global_step = 0

    def __init__(self, trainer: Trainer) -> None:
        self.datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.train_dataloader = trainer.train_dataloader
        self.estimated_stepping_batches = trainer.estimated_stepping_batches
        self.max_epochs, self.max_steps = trainer.max_epochs, trainer.max_steps


class BareLoop:
    """The loop that one would write by hand, with a copy of the family that a trainer is about to train."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.module: Any = copy.deepcopy(module)
        self.module.trainer = Alone(trainer)
        self.module.train()
        self.module.on_train_epoch_start()
        settings = self.module.configure_optimizers()
        self.optimizer = settings["optimizer"] if isinstance(settings, dict) else settings
        self.schedule = settings["lr_scheduler"]["scheduler"] if isinstance(settings, dict) else None
        self.training = trainer.datamodule.train_images  # type: ignore[attr-defined]
        loader: Any = trainer.train_dataloader
        self.rows = list(loader.sampler)
        self.done = 0

    def loss(self, batch_idx: int) -> torch.Tensor:
        images, labels = (part.to(self.module.device) for part in self.training[self.rows[batch_idx]])
        return self.module.training_step((images.float().div(255), labels), batch_idx)

    def step(self) -> None:
        loss = self.loss(self.done % len(self.rows))
        self.done += 1
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if isinstance(self.module, EMAGenerator):
            self.module.ema.update_parameters(self.module.network)

    def run(self, steps: int) -> float:
        """Seconds of the next steps."""
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - began

    def least_seconds(self) -> float:
        """What a step of an optimiser like Adam takes that keeps the machine as busy as it can be: its multiplications
        at the rate of a product of matrices, and then the optimiser's numbers at the memory's pace.

        The optimiser reads weights, gradients and two averages, and writes all but the gradients.
        """
        with FlopCounterMode(display=False) as counter:
            self.loss(0).backward()
        self.optimizer.zero_grad()
        weights = sum(weight.nbytes for group in self.optimizer.param_groups for weight in group["params"])
        return counter.get_total_flops() / machine.multiplication_rate() + 7 * weights / machine.memory_bandwidth()


class TakeTurns(Callback):
    """Interrupts a training after every so many steps for as many of the bare loop, and ends it after some turns.

    Args:
        output: a JSON file for the turns: seconds of a step of the training, of the loop, and of the machine's limit.
        steps: in a turn.
        turns: after the first, which warms up and does not count.
        limit: whether to measure the machine's limit, too.
    """

    def __init__(self, output: str, steps: int, turns: int, limit: bool = False) -> None:
        self.output, self.steps, self.turns, self.limit = Path(output), steps, turns, limit
        self.measured: list[dict[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.loop = BareLoop(trainer, pl_module)
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        turn, of_turn = divmod(trainer.fit_loop.total_batch_idx + 1, self.steps)
        if of_turn:
            return
        ours = time.perf_counter() - self.began
        seconds = {"ours": ours / self.steps, "bare": self.loop.run(self.steps) / self.steps}
        if self.limit:
            seconds["least"] = self.loop.least_seconds()
        if turn > 1:
            self.measured.append(seconds)
        if turn > self.turns:
            self.output.write_text(json.dumps(self.measured))
            trainer.should_stop = True
        self.began = time.perf_counter()
