"""Base class of the families that generate images with EMA weights."""

import functools
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from condgen.generators.base import ConditionalGenerator

Tensors = tuple[Tensor, ...] | list[Tensor]


def update_ema(ema: Tensors, values: Tensors, steps: Tensor | int, decay: float) -> None:
    """Updates the EMA ``ema`` with the current values of the weights and buffers.

    The decay has a warm-up, because the first weights are random: at step n it is ``min(decay, (1 + n) / (10 + n))``.
    """
    n = int(steps)
    get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(ema, values, n)


class EMAGenerator(ConditionalGenerator):
    """Base class of families that train ``network`` and generate images with ``ema``.

    ``ema`` is the exponential moving average (EMA) of the weights and buffers of ``network``.
    """

    network: nn.Module
    ema: AveragedModel

    def set_network(self, network: nn.Module, decay: float) -> None:
        """Sets ``network`` to a network and creates ``ema``.

        Args:
            network: Network to train.
            decay: Decay of the EMA after its warm-up.
        """
        update = functools.partial(update_ema, decay=decay)  # a local function cannot be pickled
        self.network = network
        self.ema = AveragedModel(network, multi_avg_fn=update, use_buffers=True).requires_grad_(False)

    @property
    def sampler(self) -> nn.Module:
        return self.ema

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Updates the weights, then the EMA.

        The EMA is updated here and not at the end of the batch, so that a checkpoint that is collected at the end of
        the batch contains the update.
        """
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.network)
