"""A training whose loss or gradients are no longer numbers is stopped, before they get into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from condgen.errors import UsageError


class FiniteTraining(Callback):
    """Ends the run with one line where a loss or a gradient is NaN or infinite.

    Nothing is saved then: the last checkpoint is from before. Under ``16-mixed`` only losses are looked at, as its
    scaler takes infinite gradients for a sign to scale less.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.checkpoint = Path(str(trainer.log_dir)) / "checkpoints" / "last.ckpt"

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not loss.isfinite().all():
            raise self._stop(trainer, f"The loss is {loss.detach().float().sum().item()}")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.precision == "16-mixed":
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # a sum is not finite where one of its terms is not, and costs a twentieth of asking each of them
        if gradients and not torch.stack([gradient.sum() for gradient in gradients]).sum().isfinite():
            names = {parameter: name for name, parameter in pl_module.named_parameters()}
            parameters: list[Any] = [p for group in optimizer.param_groups for p in group["params"]]
            where = next(p for p in parameters if p.grad is not None and not p.grad.sum().isfinite())
            raise self._stop(trainer, f"The gradient of {names[where]} is {where.grad.sum().item()}")

    def _stop(self, trainer: Trainer, what: str) -> UsageError:
        last = (
            f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.is_file() else "nothing was saved yet"
        )
        step, epoch = trainer.fit_loop.total_batch_idx, trainer.current_epoch
        return UsageError(f"{what} in step {step} (epoch {epoch}): lower --model.lr; {last}.")
