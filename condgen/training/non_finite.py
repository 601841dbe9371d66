"""The callback that stops training if a loss or a gradient is NaN or infinite, before the weights are updated."""

import math
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from condgen.errors import CollectiveError


class TerminateOnNonFinite(Callback):
    """Raises CollectiveError on all processes if the loss or a gradient of any process is NaN or infinite.

    Gradients are checked after the backward pass, because DDP has made them equal on all processes by then. A loss that
    is not finite is detected in the same way, because it makes the gradients NaN. With ``16-mixed`` only losses are
    checked: GradScaler expects infinite gradients and lowers its scale. No checkpoint is written, so the last
    checkpoint stays usable.
    """

    def __init__(self) -> None:
        self._loss = torch.zeros(())  # loss of the latest batch on this process

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
        # If an element is not finite, the sum is not finite. The sum is 20 times faster than checking every element.
        if gradients and not torch.stack([gradient.sum() for gradient in gradients]).sum().isfinite():
            named = {f"gradient of {name}": p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            raise self._error(trainer, {"loss": self._loss, **named})

    def _error(self, trainer: Trainer, tensors: dict[str, Tensor]) -> CollectiveError:
        """Returns an error that names the first tensor that is not finite.

        If all tensors of this process are finite, the loss of another process is the cause.
        """
        sums = {name: tensor.sum().item() for name, tensor in tensors.items()}
        wrong = (f"The {name} is {total}" for name, total in sums.items() if not math.isfinite(total))
        cause = next(wrong, "The loss of another process is not finite")
        has_saved = self.checkpoint.is_file()
        last = f"the last good checkpoint is {self.checkpoint}" if has_saved else "nothing was saved yet"
        step, epoch = trainer.fit_loop.total_batch_idx, trainer.current_epoch
        return CollectiveError(f"{cause} in step {step} (epoch {epoch}): lower --model.lr; {last}.")
