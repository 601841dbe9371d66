"""Training stops if the loss or a gradient is no longer finite, before the weights are touched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from condgen.errors import CollectiveError


class TerminateOnNonFinite(Callback):
    """Ends the run on all processes if a loss or a gradient of any of them is NaN or infinite.

    Nothing is saved then: the last checkpoint is from before. The decision is taken from the gradients, which DDP has
    made equal on all processes by then. A loss that is not finite makes them NaN. Under ``16-mixed`` only losses are
    checked, because the gradient scaler expects infinite gradients and lowers its scale.
    """

    def __init__(self) -> None:
        self._loss = torch.zeros(())  # of the last batch of this process

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.checkpoint = Path(str(trainer.log_dir)) / "checkpoints" / "last.ckpt"

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = loss.detach()
        is_finite = self._loss.isfinite()
        if loss.requires_grad:
            loss.register_hook(lambda gradient: torch.where(is_finite, gradient, math.nan))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.precision == "16-mixed":
            is_finite = bool(self._loss.isfinite())
            if not trainer.strategy.reduce_boolean_decision(is_finite, all=True):
                raise self._error(trainer, self._describe_loss() or "The loss of another process is not finite")
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # A sum is not finite if one of its terms is not, and costs a twentieth of a check of each term.
        if gradients and not torch.stack([gradient.sum() for gradient in gradients]).sum().isfinite():
            raise self._error(trainer, self._describe_loss() or self._describe_gradient(pl_module, optimizer))

    def _describe_loss(self) -> str:
        return "" if self._loss.isfinite() else f"The loss is {self._loss.float().item()}"

    def _describe_gradient(self, pl_module: LightningModule, optimizer: Optimizer) -> str:
        names = {parameter: name for name, parameter in pl_module.named_parameters()}
        parameters: list[Any] = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        first = next(p for p in parameters if not p.grad.sum().isfinite())
        return f"The gradient of {names[first]} is {first.grad.sum().item()}"

    def _error(self, trainer: Trainer, what: str) -> CollectiveError:
        last = (
            f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.is_file() else "nothing was saved yet"
        )
        step, epoch = trainer.fit_loop.total_batch_idx, trainer.current_epoch
        return CollectiveError(f"{what} in step {step} (epoch {epoch}): lower --model.lr; {last}.")
