"""Muon's step against the singular value decomposition that it stands for, and AdamW beside it."""

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
def test_orthogonal_keeps_the_directions_and_makes_them_about_equally_long(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    lengths = torch.logspace(0, -2, min(shape))
    result = left.T @ orthogonalize(left * lengths @ right) @ right.T
    assert torch.allclose(result, result.diag().diag(), atol=1e-4)
    assert 0.6 < result.diag().min() < result.diag().max() < 1.25


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (8, 32), (32, 8)])
def test_a_step_goes_against_the_gradient_equally_far_in_all_directions(shape):
    torch.manual_seed(0)
    weight = Parameter(torch.zeros(shape))
    optimizer = muon([weight], [])
    gradient = torch.randn(shape)
    for _ in range(3):
        weight.grad = gradient.clone()
        optimizer.step()
    left, _, right = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    far = 3 * 0.1 * max(1, shape[0] / gradient[0].numel()) ** 0.5
    moved = (left.T @ weight.detach().flatten(1) @ right.T).diag() / -far
    assert 0.6 < moved.min() < moved.max() < 1.25


def test_it_goes_on_from_its_state_as_if_it_had_never_stopped():
    torch.manual_seed(0)
    gradients = torch.randn(6, 4, 5)

    def steps(optimizer, weights, some):
        for gradient in some:
            for weight in weights:
                weight.grad = gradient.clone()
            optimizer.step()

    whole = [Parameter(torch.ones(4, 5)) for _ in range(2)]
    steps(muon(whole[:1], whole[1:]), whole, gradients)
    first = [Parameter(torch.ones(4, 5)) for _ in range(2)]
    before = muon(first[:1], first[1:])
    steps(before, first, gradients[:3])
    then = [Parameter(weight.detach().clone()) for weight in first]
    after = muon(then[:1], then[1:])
    after.load_state_dict(before.state_dict())
    steps(after, then, gradients[3:])
    assert all(torch.equal(a, b) for a, b in zip(whole, then, strict=True))
    assert not torch.equal(whole[0], whole[1])


def test_all_other_parameters_are_left_to_adamw():
    torch.manual_seed(0)
    gradients = torch.randn(5, 7)
    ours, theirs = Parameter(torch.ones(7)), Parameter(torch.ones(7))
    for weight, optimizer in (
        (ours, muon([Parameter(torch.zeros(2, 2))], [ours])),
        (theirs, torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)),
    ):
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_closure_is_asked_once_a_step_with_gradients():
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
