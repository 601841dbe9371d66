"""The log-likelihood of a diffusion model, tested on distributions whose density is known."""

from __future__ import annotations

import math

import pytest
import torch

from condgen.nn.likelihood import dequantize, log_density, noisy_image_bound, ode_times, rademacher
from condgen.nn.paths import RectifiedFlow, VariancePreserving

PATHS = [RectifiedFlow(), VariancePreserving()]


def gaussian_target(path, mean, variance):
    """The exact prediction of the target for pixels that are normal and independent."""

    def target(x_t, t):
        alpha_t, sigma_t = path.coefficients_at(t)
        noise = sigma_t * (x_t - alpha_t * mean) / (alpha_t**2 * variance + sigma_t**2)
        x = mean + alpha_t * variance * (x_t - alpha_t * mean) / (alpha_t**2 * variance + sigma_t**2)
        a, b = path.target_weights
        return a * x + b * noise

    return target


def gaussian_velocity(path, mean, variance):
    """The exact velocity of a path from noise to pixels that are normal and independent."""
    target = gaussian_target(path, mean, variance)
    return lambda x_t, t: path.velocity(x_t, target(x_t, t), t)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("deviation", [0.5, 0.02])  # 0.02 is about as narrow as a black pixel of a trained diffusion
def test_log_density_of_a_gaussian_is_exact(path, deviation):
    random = torch.Generator().manual_seed(0)
    mean, x = torch.full((1, 4, 4), -1.0), torch.randn(3, 1, 4, 4, generator=random)
    x = mean + deviation * x
    probes = rademacher(torch.rand(3, 1, 4, 4, generator=random))
    expected = torch.distributions.Normal(mean, deviation).log_prob(x).sum((1, 2, 3))
    found = log_density(gaussian_velocity(path, mean, deviation**2), x, probes, ode_times(32))
    assert torch.allclose(found, expected, atol=16 * 0.03)  # 0.03 nats per pixel
    few = log_density(gaussian_velocity(path, mean, deviation**2), x, probes, ode_times(2))
    assert not torch.allclose(few, expected, atol=1)


def test_hutchinson_estimate_averages_to_the_exact_trace_of_a_mixing_ode():
    """x' = A x has the log density log N(exp(-A) x) - tr(A), and A has elements off the diagonal."""
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 4, generator=random) / 2
    x = torch.randn(1, 1, 2, 2, generator=random).expand(2000, -1, -1, -1)
    probes = rademacher(torch.rand(2000, 1, 2, 2, generator=random))
    found = log_density(lambda x, t: (x.flatten(1) @ matrix.T).view_as(x), x, probes, ode_times(16))
    z = torch.linalg.matrix_exp(-matrix) @ x[0].flatten()
    expected = -0.5 * (z.square() + math.log(2 * math.pi)).sum() - matrix.trace()
    assert found.std() > 0.1  # a single probe is noisy
    assert float(found.mean()) == pytest.approx(float(expected), abs=4 * float(found.std()) / 2000**0.5 + 0.01)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_noisy_image_bound_compares_two_gaussians_as_their_densities_do(path):
    random = torch.Generator().manual_seed(0)
    x, noise = torch.full((1, 1, 2, 2), 0.2), torch.randn(4000, 32, 1, 2, 2, generator=random)
    near, far = torch.tensor(0.0), torch.tensor(0.8)
    found = [
        noisy_image_bound(path, gaussian_target(path, mean, 0.09), x.expand(4000, -1, -1, -1), noise).mean()
        for mean in (near, far)
    ]
    t_noisy, t_clear = path.training_times(torch.tensor([-2.0, 2.0]))

    def expected(mean, t):  # E log p(x_t) over the noise, up to a constant
        alpha_t, sigma_t = path.coefficients(t)
        return -2 * (alpha_t * (x[0, 0, 0, 0] - mean)).square() / (0.09 * alpha_t**2 + sigma_t**2)

    clear, noisy = (float(expected(near, t) - expected(far, t)) for t in (t_clear, t_noisy))
    assert float(found[0] - found[1]) == pytest.approx(clear - noisy, rel=0.05)


def test_log_density_works_in_inference_mode_as_trainer_test_uses_it():
    x = torch.zeros(1, 1, 2, 2)
    expected = log_density(lambda x, t: -x, x, torch.ones_like(x), ode_times(8))
    with torch.inference_mode():
        x = torch.zeros(1, 1, 2, 2)
        assert torch.equal(log_density(lambda x, t: -x, x, torch.ones_like(x), ode_times(8)), expected)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.99])
def test_velocity_is_the_time_derivative_of_the_path(path, t):
    x, noise = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, x_t, after = (path.add_noise(x, noise, torch.tensor([s], dtype=x.dtype)) for s in (t - 1e-5, t, t + 1e-5))
    velocity = path.velocity(x_t, path.target(x, noise), t)
    assert torch.allclose(velocity, (after - before) / 2e-5, atol=1e-5)


def test_dequantized_levels_fill_bins_that_touch_but_do_not_overlap():
    levels = torch.tensor([0, 1, 255]).view(3, 1, 1, 1) / 255
    low, high = (dequantize(levels, torch.full_like(levels, number))[0].flatten() for number in (0.0, 1.0))
    assert torch.allclose(high[0], low[1])
    assert torch.allclose((low + high) / 2, 2 * levels.flatten() - 1)
    assert float(dequantize(levels, levels)[1]) == pytest.approx(math.log(float(high[0] - low[0])), rel=1e-4)
