"""A callback to stop training on NaN or infinite values, before they can end up in the weights."""

import math
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from condgen.errors import CollectiveError


class TerminateOnNonFinite(Callback):
    """Raises a CollectiveError on all ranks if the loss or gradients become NaN or infinite on any of them.

    We check the gradients after the backward pass, at which point DDP has already synchronized them across ranks. This
    covers the loss too, because a non-finite loss is turned into NaN gradients. With ``16-mixed``, only the loss is
    checked, since it's normal for GradScaler to run into infinite gradients and reduce the scale. No checkpoint is
    saved, so the last one is still usable.
    """

    def __init__(self) -> None:
        self._loss = torch.zeros(())  # latest loss on this rank

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
        # The sum is non-finite if any of the elements are, and is 20 times faster than checking each of them.
        if gradients and not torch.stack([gradient.sum() for gradient in gradients]).sum().isfinite():
            named = {f"gradient of {name}": p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            raise self._error(trainer, {"loss": self._loss, **named})

    def _error(self, trainer: Trainer, tensors: dict[str, Tensor]) -> CollectiveError:
        """Creates an error for the first non-finite tensor. If there is none, it must be on another rank."""
        sums = {name: tensor.sum().item() for name, tensor in tensors.items()}
        wrong = (f"The {name} is {total}" for name, total in sums.items() if not math.isfinite(total))
        cause = next(wrong, "The loss of another process is not finite")
        has_saved = self.checkpoint.is_file()
        last = f"the last good checkpoint is {self.checkpoint}" if has_saved else "nothing was saved yet"
        step, epoch = trainer.fit_loop.total_batch_idx, trainer.current_epoch
        return CollectiveError(f"{cause} in step {step} (epoch {epoch}): lower --model.lr; {last}.")
