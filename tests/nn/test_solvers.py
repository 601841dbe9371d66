"""The solvers reach the known solution, and their error shrinks with the order of the method."""

from __future__ import annotations

import pytest
import torch

from condgen.nn.paths import VariancePreserving
from condgen.nn.solvers import ddim, euler, heun, multistep

IMAGE = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
NOISE = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def times(steps: int) -> list[float]:
    return [step / steps for step in range(steps + 1)]


@pytest.mark.parametrize("solver", [euler, heun, multistep])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_flow_solver_reaches_the_only_image_of_the_data(solver, steps):
    def velocity(x, t):
        return (IMAGE - x) / (1 - t)

    assert torch.allclose(solver(velocity, NOISE, times(steps)), IMAGE, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ddim_reaches_the_only_image_of_the_data(steps):
    path = VariancePreserving()

    def predicted_noise(x, t):
        alpha_t, sigma_t = path.coefficients(torch.tensor(t, dtype=torch.float64))
        return (x - alpha_t * IMAGE) / sigma_t

    assert torch.allclose(ddim(predicted_noise, NOISE, times(steps), path).float(), IMAGE, atol=1e-4)


def error(solver, steps: int) -> float:
    """The largest error for normally distributed images, whose velocity and solution have a closed form."""
    mean, std, noise = 0.3, 2.0, NOISE.double()

    def velocity(x, t):
        variance = (1 - t) ** 2 + (t * std) ** 2
        return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)

    return float((solver(velocity, noise, times(steps)) - (mean + std * noise)).abs().max())


def test_euler_is_first_order():
    assert error(euler, 40) == pytest.approx(error(euler, 20) / 2, rel=0.2)


def test_heun_is_second_order_and_beats_euler_at_the_same_nfe():
    assert error(heun, 40) == pytest.approx(error(heun, 20) / 4, rel=0.2)
    assert error(heun, 20) < error(euler, 39) / 2


def test_multistep_is_second_order_with_one_evaluation_per_step():
    evaluations = []

    def velocity(x, t):
        evaluations.append(t)
        return x

    multistep(velocity, NOISE, times(20))
    assert len(evaluations) == 20
    assert error(multistep, 40) == pytest.approx(error(multistep, 20) / 4, rel=0.2)
    assert error(multistep, 20) < 2 * error(heun, 20)
