"""The paths from noise to image, and the preconditioning of the network."""

from __future__ import annotations

import pytest
import torch

from condgen.nn.paths import DATA_VARIANCE, RectifiedFlow, VariancePreserving

IMAGE = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
NOISE = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
PATHS = [RectifiedFlow(), VariancePreserving()]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_path_starts_as_noise_and_ends_as_the_image(path):
    start, end = (path.add_noise(IMAGE, NOISE, torch.tensor([t])) for t in (0.0, 1.0))
    assert torch.allclose(start, NOISE, atol=0.01)
    assert torch.allclose(end, IMAGE, atol=1e-6)


def test_variance_preserving_path_matches_the_thousand_steps_of_ddpm():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # Ho et al. 2020
    alpha_bar = (1 - betas).cumprod(0)
    alpha_t, sigma_t = VariancePreserving().coefficients(1 - torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert torch.allclose(alpha_t, alpha_bar.sqrt(), atol=2e-3)
    assert torch.allclose(alpha_t**2 + sigma_t**2, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_preconditioning_scales_network_input_and_target_to_unit_variance(path, t):
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 50_000, 1, 1, 1, generator=generator)
    images *= DATA_VARIANCE**0.5
    x_t = path.add_noise(images, noise, torch.tensor([t]))
    c_skip, c_out, c_in = path.preconditioning(torch.tensor([t]))
    network_input, network_target = c_in * x_t, (path.target(images, noise) - c_skip * x_t) / c_out
    assert float(network_input.var()) == pytest.approx(1, abs=0.02)
    assert float(network_target.var()) == pytest.approx(1, abs=0.02)
    assert abs(float((network_input * network_target).mean())) < 0.02  # the rest of the target is uncorrelated with x_t
