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
    """Creates a parameter group that uses the fused implementation of Adam, AdamW or SGD.

    Note that ``fused`` needs to be set here and not on the optimizer. Otherwise, Lightning refuses to clip gradients
    with 16-mixed precision.
    """
    return {"params": parameters, "fused": True, **settings}


def with_schedule(
    optimizer: Optimizer, module: LightningModule, schedule: ScheduleName, warmup_steps: int
) -> OptimizerLRScheduler:
    """Adds a learning-rate schedule to an optimizer, in a format that ``configure_optimizers`` can return.

    Learning rates go up linearly during the warm-up. After that, they either stay constant or decay to 0 by the end of
    the run.

    Args:
        optimizer: The optimizer to schedule.
        module: The module being trained. The number of steps is taken from its trainer.
        schedule: ``constant``, ``linear`` decay, or ``cosine`` decay (half a period).
        warmup_steps: The number of warm-up steps.

    Raises:
        UsageError: If the learning rate should decay but the run has no step or epoch limit.
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
        # Must not be called before the first step, or Lightning builds the data loader without its resume state.
        return trainer.estimated_stepping_batches

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant" or step == 0:
            return 1.0
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps() - warmup_steps))
        return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
