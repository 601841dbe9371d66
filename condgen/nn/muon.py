"""Muon: an optimiser for weight matrices of which every direction is to learn, not only the few that the gradient is
full of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalize(matrix: Tensor) -> Tensor:
    """About the nearest orthogonal matrix to one of shape (M, N): its singular values become roughly 1.

    Five steps of a Newton-Schulz iteration, whose polynomial is Keller Jordan's: it lifts small singular values fast,
    and leaves those above a five-hundredth of the matrix's norm between 0.68 and 1.2. Each step multiplies by a
    polynomial of the Gram matrix, which is the smaller one, so that the matrix itself is multiplied but once.
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
    """Muon for some weights (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"), and AdamW
    for all others.

    The step of a matrix is the moving average of its gradients, with the last one added once more (Nesterov's
    momentum), made orthogonal. Weights of convolutions are matrices of output channels by all that such a channel sees,
    which ``torch.optim.Muon`` refuses.

    Args:
        matrices: weights of two dimensions or more, for Muon.
        others: parameters for AdamW.
        matrix_lr: learning rate of Muon: about how far a step moves in each direction.
        lr: learning rate of AdamW.
        betas: of AdamW.
        weight_decay: of AdamW; Muon has none.
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
        groups: list[dict[str, Any]] = [{"params": list(others)}, {"params": list(matrices), "lr": matrix_lr}]
        groups[1]["momentum"] = 0.95
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)

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
            state = self.state[weight]  # named as AdamW names its own
            if not state:
                state["step"], state["exp_avg"] = torch.zeros((), device=weight.device), torch.zeros_like(weight)
            state["step"] += 1
            average = state["exp_avg"].lerp_(weight.grad, 1 - group["momentum"])
            step = orthogonalize(weight.grad.lerp(average, group["momentum"]).flatten(1))
            step *= max(1, step.size(0) / step.size(1)) ** 0.5
            weight.sub_(step.view_as(weight), alpha=group["lr"])
            weight.grad = None  # AdamW passes over it
        super().step()
        return loss
