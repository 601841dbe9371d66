"""Optimizer parameter groups and learning-rate schedules."""

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from condgen.errors import UsageError

ScheduleName = Literal["constant", "linear", "cosine"]


def fused_group(parameters: Iterable[Tensor], **settings: Any) -> dict[str, Any]:
    """Creates a parameter group for Adam, AdamW or SGD that uses the fused implementation.

    ``fused`` is set in the group and not as an argument of the optimizer. Otherwise Lightning refuses to clip gradients
    with the precision 16-mixed.

    Args:
        parameters: Parameters of the group.
        **settings: Other settings of the group, such as ``lr``.
    """
    return {"params": parameters, "fused": True, **settings}


def with_schedule(
    optimizer: Optimizer, module: LightningModule, schedule: ScheduleName, warmup_steps: int
) -> OptimizerLRScheduler:
    """Adds a learning-rate schedule to an optimizer. ``configure_optimizers`` can return the result.

    The learning rates increase linearly during the warm-up. After the warm-up they are constant, or decay to 0 at the
    end of the training run.

    Args:
        optimizer: Optimizer whose learning rates are scheduled.
        module: Module that the optimizer trains. Its trainer determines the number of steps.
        schedule: ``constant``, ``linear`` decay, or ``cosine`` decay (half a period).
        warmup_steps: Number of warm-up steps.

    Raises:
        UsageError: If the learning rate must decay, but the training run has no limit of steps or epochs.
    """
    if schedule == "constant" and not warmup_steps:
        return optimizer
    trainer = module.trainer
    if schedule != "constant" and trainer.max_steps == -1 and trainer.max_epochs == -1:
        raise UsageError(
            f"model.schedule is {schedule}, but the training run has no end. Set --trainer.max_steps or "
            "--trainer.max_epochs, or use --model.schedule constant."
        )

    @functools.cache
    def total_steps() -> float:
        # Called only after the first step: before it, Lightning would build the data loader without its resume state.
        return trainer.estimated_stepping_batches

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant" or step == 0:
            return 1.0
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps() - warmup_steps))
        return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
