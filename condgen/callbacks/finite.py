"""A training whose loss, gradients or weights are no longer numbers is stopped, before they get into a checkpoint."""

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
    """Ends the run with one line where a loss, a gradient or a weight is NaN or infinite.

    In each step the loss is looked at, and the gradients of biases and other vectors: what is no number in a layer's
    output makes its bias's gradient none, and reading those of the matrices, too, would take 2 % of the DNN's step. All
    weights are looked at before they are saved, so that the last checkpoint is always a good one. Under ``16-mixed``
    gradients are passed over, as its scaler takes infinite ones for a sign to scale less.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.checkpoint = Path(str(trainer.log_dir)) / "checkpoints" / "last.ckpt"

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not loss.isfinite().all():
            raise self._stop(trainer, f"The loss is {loss.detach().float().sum().item()}")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.precision == "16-mixed":
            return
        vectors = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None and p.ndim < 2]
        self._check(trainer, pl_module, "gradient of ", vectors, [vector.grad for vector in vectors])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        parameters = list(pl_module.parameters())
        self._check(trainer, pl_module, "", parameters, [parameter.detach() for parameter in parameters])

    def _check(
        self, trainer: Trainer, module: LightningModule, what: str, parameters: list[Any], values: list[Any]
    ) -> None:
        """Raises UsageError where one of the values, each a parameter's, is not finite."""
        # a sum is not finite where one of its terms is not, and costs a twentieth of asking each of them
        if values and not torch.stack([value.sum() for value in values]).sum().isfinite():
            names = {parameter: name for name, parameter in module.named_parameters()}
            for parameter, value in zip(parameters, values, strict=True):
                if not value.sum().isfinite():
                    raise self._stop(trainer, f"The {what}{names[parameter]} is {value.sum().item()}")

    def _stop(self, trainer: Trainer, what: str) -> UsageError:
        last = (
            f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.is_file() else "nothing was saved yet"
        )
        step, epoch = trainer.fit_loop.total_batch_idx, trainer.current_epoch
        return UsageError(f"{what} in step {step} (epoch {epoch}): lower --model.lr; {last}.")
