"""Base class for families that sample with EMA weights."""

import functools
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from condgen.generators.base import ConditionalGenerator

Tensors = tuple[Tensor, ...] | list[Tensor]


def update_ema(ema: Tensors, values: Tensors, steps: Tensor | int, decay: float) -> None:
    """Updates the EMA in place with the current weights and buffers.

    Since the initial weights are random, the decay is warmed up: it is ``min(decay, (1 + n) / (10 + n))`` at step n.
    """
    n = int(steps)
    get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(ema, values, n)


class EMAGenerator(ConditionalGenerator):
    """Base class for families that train ``network`` but sample with ``ema``.

    ``ema`` is an exponential moving average (EMA) of the network's weights and buffers.
    """

    network: nn.Module
    ema: AveragedModel

    def set_network(self, network: nn.Module, decay: float) -> None:
        """Sets the network to train and creates its EMA. ``decay`` is the EMA decay after the warm-up."""
        update = functools.partial(update_ema, decay=decay)  # a local function cannot be pickled
        self.network = network
        self.ema = AveragedModel(network, multi_avg_fn=update, use_buffers=True).requires_grad_(False)

    @property
    def sampler(self) -> nn.Module:
        return self.ema

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Updates the weights and then the EMA.

        Doing this at the end of the batch would be too late for checkpoints that are collected there.
        """
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.network)
