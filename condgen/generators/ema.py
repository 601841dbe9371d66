"""Generators that sample with the EMA of their weights."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from condgen.generators.base import ConditionalGenerator

Tensors = tuple[Tensor, ...] | list[Tensor]


@torch.no_grad()
def update_ema(averages: Tensors, values: Tensors, steps: Tensor | int, decay: float) -> None:
    """EMA with warm-up: the decay at step n is min(decay, (1 + n) / (10 + n)), as the first weights are random."""
    n = int(steps)
    keep = min(decay, (1 + n) / (10 + n))
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, values, 1 - keep)
    else:
        torch._foreach_copy_(averages, values)


class EMAGenerator(ConditionalGenerator):
    """A family that trains ``network`` and generates with ``averaged``, the EMA of its weights and buffers."""

    network: nn.Module
    ema: AveragedModel

    def set_network(self, network: nn.Module, decay: float) -> None:
        """Sets ``network``, and ``averaged``, whose EMA decay is at most ``decay``."""
        update = functools.partial(update_ema, decay=decay)  # not a local function, which could not be pickled
        self.network = network
        self.ema = AveragedModel(network, multi_avg_fn=update, use_buffers=True).requires_grad_(False)

    @property
    def sampler(self) -> nn.Module:
        return self.ema

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Here and not at the batch's end, before which a checkpoint may be gathered."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.network)
