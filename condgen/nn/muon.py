"""The Muon optimizer: SGD with momentum, where each update gets orthogonalized."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from condgen.nn.schedule import fused_group


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximates the semi-orthogonal matrix that is closest to the given matrix of shape (M, N).

    The singular values of the result are all close to 1. We run five Newton-Schulz steps with Keller Jordan's
    polynomial, which grows small singular values quickly: anything above 1/500 of the matrix norm ends up between 0.68
    and 1.2. To save time, the steps only multiply Gram matrices along the smaller dimension.
    """
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
    x = wide / wide.norm().clamp(min=1e-7)
    gram = x @ x.T
    factor = identity = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    for _ in range(5):
        polynomial = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        factor = polynomial @ factor
        gram = polynomial @ gram @ polynomial
    x = factor @ x
    return x if wide is matrix else x.T


class Muon(torch.optim.AdamW):
    """Muon for weight matrices and AdamW for everything else.

    Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") applies Nesterov momentum to
    the gradient of a matrix, orthogonalizes the result and subtracts it. Convolution weights are flattened to matrices
    of shape (out_channels, in_channels · kernel size). We can't use ``torch.optim.Muon`` for those, as it only accepts
    parameters with two dimensions.

    Args:
        matrices: Weights to train with Muon. They need at least two dimensions.
        others: Parameters to train with AdamW.
        matrix_lr: Learning rate for Muon.
        lr: Learning rate for AdamW.
        betas: Betas for AdamW.
        weight_decay: Weight decay for AdamW. Muon does not use any.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        matrix_lr: float,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        groups: list[dict[str, Any]] = [
            fused_group(list(others)),
            fused_group(list(matrices), lr=matrix_lr, momentum=0.95),
        ]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[1]
        for weight in group["params"]:
            if weight.grad is None:
                continue
            # Use the same names as AdamW, since its __setstate__ expects a step for every parameter.
            state = self.state[weight]
            if not state:
                state["step"], state["exp_avg"] = torch.zeros((), device=weight.device), torch.zeros_like(weight)
            state["step"] += 1
            momentum = state["exp_avg"].lerp_(weight.grad, 1 - group["momentum"])
            update = orthogonalize(weight.grad.lerp(momentum, group["momentum"]).flatten(1))
            update *= max(1, update.size(0) / update.size(1)) ** 0.5
            weight.sub_(update.view_as(weight), alpha=group["lr"])
            weight.grad = None  # so that AdamW skips it
        super().step()
        return loss
