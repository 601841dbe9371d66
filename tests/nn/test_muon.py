"""Muon's update compared with the singular value decomposition, and its AdamW part with ``torch.optim.AdamW``."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from condgen.nn.muon import Muon, orthogonalize


def muon(matrices, others, **settings) -> Muon:
    return Muon(
        matrices, others, **{"matrix_lr": 0.1, "lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1, **settings}
    )


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
def test_orthogonalize_keeps_singular_vectors_and_sets_singular_values_near_one(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    singular_values = torch.logspace(0, -2, min(shape))
    result = left.T @ orthogonalize(left * singular_values @ right) @ right.T
    assert torch.allclose(result, result.diag().diag(), atol=1e-4)
    assert 0.6 < result.diag().min() < result.diag().max() < 1.25


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (8, 32), (32, 8)])
def test_muon_step_is_equally_long_in_all_directions_against_the_gradient(shape):
    torch.manual_seed(0)
    weight = Parameter(torch.zeros(shape))
    optimizer = muon([weight], [])
    gradient = torch.randn(shape)
    for _ in range(3):
        weight.grad = gradient.clone()
        optimizer.step()
    left, _, right = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    expected = 3 * 0.1 * max(1, shape[0] / gradient[0].numel()) ** 0.5
    relative = (left.T @ weight.detach().flatten(1) @ right.T).diag() / -expected
    assert 0.6 < relative.min() < relative.max() < 1.25


def test_muon_resumed_from_its_state_dict_matches_uninterrupted_steps():
    torch.manual_seed(0)
    gradients = torch.randn(6, 4, 5)

    def take_steps(optimizer, weights, gradients):
        for gradient in gradients:
            for weight in weights:
                weight.grad = gradient.clone()
            optimizer.step()

    uninterrupted = [Parameter(torch.ones(4, 5)) for _ in range(2)]
    take_steps(muon(uninterrupted[:1], uninterrupted[1:]), uninterrupted, gradients)
    first_half = [Parameter(torch.ones(4, 5)) for _ in range(2)]
    first_optimizer = muon(first_half[:1], first_half[1:])
    take_steps(first_optimizer, first_half, gradients[:3])
    resumed = [Parameter(weight.detach().clone()) for weight in first_half]
    resumed_optimizer = muon(resumed[:1], resumed[1:])
    resumed_optimizer.load_state_dict(first_optimizer.state_dict())
    take_steps(resumed_optimizer, resumed, gradients[3:])
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted, resumed, strict=True))
    assert not torch.equal(uninterrupted[0], uninterrupted[1])


def test_muon_updates_other_parameters_with_adamw():
    torch.manual_seed(0)
    gradients = torch.randn(5, 7)
    with_muon, with_adamw = Parameter(torch.ones(7)), Parameter(torch.ones(7))
    for weight, optimizer in (
        (with_muon, muon([Parameter(torch.zeros(2, 2))], [with_muon])),
        (with_adamw, torch.optim.AdamW([with_adamw], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)),
    ):
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(with_muon, with_adamw, atol=1e-6)


def test_muon_evaluates_the_closure_once_per_step():
    weight = Parameter(torch.ones(2, 2))
    optimizer = muon([weight], [])

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    losses = [optimizer.step(closure) for _ in range(5)]
    assert losses[0] == 4
    assert losses == sorted(losses, reverse=True)
