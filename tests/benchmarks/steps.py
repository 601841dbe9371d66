"""Training steps of `condgen fit` and of a bare PyTorch loop with the same operations, measured in turn."""

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


class TrainerStub:
    """The attributes of the Trainer that training steps read, for a loop without a Trainer."""

    world_size, global_rank, training, current_epoch = 1, 0, True, 0
    is_last_batch = should_stop = False
    log_every_n_steps = global_step = 0

    def __init__(self, trainer: Trainer) -> None:
        self.datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.train_dataloader = trainer.train_dataloader
        self.estimated_stepping_batches = trainer.estimated_stepping_batches
        self.max_epochs, self.max_steps = trainer.max_epochs, trainer.max_steps


class BareLoop:
    """A training loop as one would write it by hand, with a copy of the module that the Trainer is about to train."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.module: Any = copy.deepcopy(module)
        self.module.trainer = TrainerStub(trainer)
        self.module.train()
        self.module.on_train_epoch_start()
        settings = self.module.configure_optimizers()
        self.optimizer = settings["optimizer"] if isinstance(settings, dict) else settings
        self.schedule = settings["lr_scheduler"]["scheduler"] if isinstance(settings, dict) else None
        self.training = trainer.datamodule.train_images  # type: ignore[attr-defined]
        loader: Any = trainer.train_dataloader
        self.rows = list(loader.sampler)
        self.steps_done = 0

    def loss(self, batch_idx: int) -> torch.Tensor:
        images, labels = (part.to(self.module.device) for part in self.training[self.rows[batch_idx]])
        return self.module.training_step((images.float().div(255), labels), batch_idx)

    def step(self) -> None:
        loss = self.loss(self.steps_done % len(self.rows))
        self.steps_done += 1
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if isinstance(self.module, EMAGenerator):
            self.module.ema.update_parameters(self.module.network)

    def run(self, steps: int) -> float:
        """Runs the next steps. Returns their seconds."""
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - start

    def least_seconds(self) -> float:
        """A lower bound on the seconds of a training step with Adam on this machine.

        It is the time of the step's floating-point operations at the rate of a matrix product, plus the time of the
        optimizer's memory traffic at full bandwidth: Adam reads weights, gradients and two moments, and writes all of
        them except the gradients.
        """
        with FlopCounterMode(display=False) as counter:
            self.loss(0).backward()
        self.optimizer.zero_grad()
        weights = sum(weight.nbytes for group in self.optimizer.param_groups for weight in group["params"])
        return counter.get_total_flops() / machine.multiplication_rate() + 7 * weights / machine.memory_bandwidth()


class TakeTurns(Callback):
    """Pauses a training every few steps, runs as many steps of the bare loop, and ends the training after some turns.

    Args:
        output: the JSON file to write: for each turn, the seconds per step of the training ("ours"), of the bare loop
            ("bare") and of the machine's limit ("least").
        steps: steps per turn.
        turns: turns after the first, which is a warm-up and does not count.
        limit: whether to measure the machine's limit.
    """

    def __init__(self, output: str, steps: int, turns: int, limit: bool = False) -> None:
        self.output, self.steps, self.turns, self.limit = Path(output), steps, turns, limit
        self.measured: list[dict[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.loop = BareLoop(trainer, pl_module)
        self.turn_start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        turn, step_in_turn = divmod(trainer.fit_loop.total_batch_idx + 1, self.steps)
        if step_in_turn:
            return
        ours = time.perf_counter() - self.turn_start
        seconds = {"ours": ours / self.steps, "bare": self.loop.run(self.steps) / self.steps}
        if self.limit:
            seconds["least"] = self.loop.least_seconds()
        if turn > 1:
            self.measured.append(seconds)
        if turn > self.turns:
            self.output.write_text(json.dumps(self.measured))
            trainer.should_stop = True
        self.turn_start = time.perf_counter()
