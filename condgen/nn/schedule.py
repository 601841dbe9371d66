"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from condgen.errors import UsageError

OptimizerName = Literal["Adam", "AdamW", "SGD"]
ScheduleName = Literal["constant", "linear", "cosine"]


def optimizer_and_schedule(
    module: LightningModule,
    optimizer: Optimizer,
    schedule: ScheduleName,
    warmup_steps: int,
) -> OptimizerLRScheduler:
    """What ``configure_optimizers`` returns for an optimiser whose rate rises linearly over ``warmup_steps`` steps, and
    then stays (``constant``) or falls to zero over the rest of the run, in a straight line (``linear``) or like half a
    cosine (``cosine``).

    Raises:
        UsageError: the rate is to fall over the rest of a run that has no end.
    """
    # Fused ones can scale gradients themselves, which Lightning takes for a reason not to clip them.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if schedule == "constant" and not warmup_steps:
        return optimizer
    total = module.trainer.estimated_stepping_batches
    if schedule != "constant" and math.isinf(total):
        raise UsageError(
            f"model.schedule is {schedule}, but the training has no end: give --trainer.max_steps or "
            "--trainer.max_epochs, or --model.schedule constant."
        )
    # That made the training loader, before Lightning has restored where in its epoch it is: let it be made again then.
    module.trainer.fit_loop._combined_loader = None

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant":
            return 1.0
        progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
        if schedule == "linear":
            return 1 - progress
        return 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi, dtype=torch.float64))))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
