"""Stops the training if a loss or a gradient is not finite, before the weights change."""

import math
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from condgen.errors import CollectiveError


class TerminateOnNonFinite(Callback):
    """Raises CollectiveError on all processes if a loss or a gradient of any of them is NaN or infinite.

    It checks gradients after the backward pass, when DDP has made them equal on all processes; a loss that is not
    finite makes them NaN. With ``16-mixed`` it checks only losses, because GradScaler expects infinite gradients and
    lowers its scale. It saves nothing, so that the last checkpoint stays good.
    """

    def __init__(self) -> None:
        self._loss = torch.zeros(())  # of this process's latest batch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.checkpoint = Path(str(trainer.log_dir)) / "checkpoints" / "last.ckpt"

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = loss.detach()
        is_finite = self._loss.isfinite()
        if loss.requires_grad:
            loss.register_hook(lambda gradient: torch.where(is_finite, gradient, math.nan))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.precision == "16-mixed":
            if not trainer.strategy.reduce_boolean_decision(bool(self._loss.isfinite()), all=True):
                raise self._error(trainer, {"loss": self._loss})
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # If an element is not finite, neither is the sum, which costs a twentieth of a check of every element.
        if gradients and not torch.stack([gradient.sum() for gradient in gradients]).sum().isfinite():
            named = {f"gradient of {name}": p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            raise self._error(trainer, {"loss": self._loss, **named})

    def _error(self, trainer: Trainer, tensors: dict[str, Tensor]) -> CollectiveError:
        """Returns the error that names the first tensor that is not finite; only another process's loss may be the
        cause."""
        sums = {name: tensor.sum().item() for name, tensor in tensors.items()}
        wrong = (f"The {name} is {total}" for name, total in sums.items() if not math.isfinite(total))
        cause = next(wrong, "The loss of another process is not finite")
        has_saved = self.checkpoint.is_file()
        last = f"the last good checkpoint is {self.checkpoint}" if has_saved else "nothing was saved yet"
        step, epoch = trainer.fit_loop.total_batch_idx, trainer.current_epoch
        return CollectiveError(f"{cause} in step {step} (epoch {epoch}): lower --model.lr; {last}.")
