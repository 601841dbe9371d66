"""Families that generate with the EMA of their weights."""

import functools
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from condgen.generators.base import ConditionalGenerator

Tensors = tuple[Tensor, ...] | list[Tensor]


def update_ema(ema: Tensors, values: Tensors, steps: Tensor | int, decay: float) -> None:
    """EMA with warm-up: the decay at step n is min(decay, (1 + n) / (10 + n)), because the first weights are random."""
    n = int(steps)
    get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(ema, values, n)


class EMAGenerator(ConditionalGenerator):
    """A family that trains ``network`` and generates with ``ema``, the EMA of its weights and buffers."""

    network: nn.Module
    ema: AveragedModel

    def set_network(self, network: nn.Module, decay: float) -> None:
        """Sets ``network``, and ``ema`` with at most this decay."""
        update = functools.partial(update_ema, decay=decay)  # a local function could not be pickled
        self.network = network
        self.ema = AveragedModel(network, multi_avg_fn=update, use_buffers=True).requires_grad_(False)

    @property
    def sampler(self) -> nn.Module:
        return self.ema

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Updates the EMA here, so that a checkpoint that is collected at the batch's end contains it."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.network)
