"""Parameter groups and learning-rate schedules."""

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
    """Returns a parameter group of Adam, AdamW or SGD that one fused kernel updates.

    ``fused`` stands in the group, because with ``fused`` as an argument of the optimiser, Lightning refuses to clip
    gradients in 16-mixed precision.
    """
    return {"params": parameters, "fused": True, **settings}


def with_schedule(
    optimizer: Optimizer, module: LightningModule, schedule: ScheduleName, warmup_steps: int
) -> OptimizerLRScheduler:
    """Returns the optimiser with a learning-rate schedule, as ``configure_optimizers`` returns it.

    After a linear warm-up over ``warmup_steps`` steps, the learning rates stay (``constant``) or decay to 0 at the end
    of the run, linearly or as half a cosine.

    Raises:
        UsageError: the learning rate is to decay over a run that has no end.
    """
    if schedule == "constant" and not warmup_steps:
        return optimizer
    trainer = module.trainer
    if schedule != "constant" and trainer.max_steps == -1 and trainer.max_epochs == -1:
        raise UsageError(
            f"model.schedule is {schedule}, but the training has no end: give --trainer.max_steps or "
            "--trainer.max_epochs, or --model.schedule constant."
        )

    @functools.cache
    def total_steps() -> float:
        # Not before the first step: Lightning would build the data loader before it restores its state.
        return trainer.estimated_stepping_batches

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant" or step == 0:
            return 1.0
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps() - warmup_steps))
        return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
