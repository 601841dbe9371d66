"""The VAE's likelihood is one, its flow is invertible, and its bound is the bound."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from condgen.cli.main import main
from condgen.generators import VAE
from condgen.generators.vae import FlowPrior, discretized_logistic_log_prob, log_normal

LEVELS = (torch.arange(256) / 255).view(-1, 1, 1, 1)


@pytest.mark.parametrize("location", [-0.4, 0.0, 0.3, 1.0, 1.4])
@pytest.mark.parametrize("scale", [0.001, 0.05, 3.0])
def test_the_likelihood_of_the_256_levels_adds_up_to_one(location, scale):
    log_scale = torch.full((1, 1, 1), math.log(scale))
    log_likelihood = discretized_logistic_log_prob(LEVELS, torch.full((256, 1, 1, 1), location), log_scale)
    assert log_likelihood.isfinite().all()
    assert log_likelihood.double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_level_has_the_part_of_the_logistic_distribution_that_lies_in_it():
    location, scale = 0.25, 0.1
    log_likelihood = discretized_logistic_log_prob(
        LEVELS, torch.full((256, 1, 1, 1), location), torch.full((1, 1, 1), math.log(scale))
    )
    edges = torch.cat((torch.tensor([-math.inf]), (torch.arange(255) + 0.5) / 255, torch.tensor([math.inf]))).double()
    parts = torch.sigmoid((edges - location) / scale).diff()
    assert torch.allclose(log_likelihood.double().exp(), parts, rtol=1e-3)


def test_the_likelihood_of_an_image_is_the_product_of_its_pixels():
    images, location = torch.rand(2, 3, 1, 4, 4).mul(255).round().div(255)
    log_scale = torch.randn(1, 4, 4) - 2
    each = [
        discretized_logistic_log_prob(*(tensor[..., y : y + 1, x : x + 1] for tensor in (images, location, log_scale)))
        for y in range(4)
        for x in range(4)
    ]
    assert torch.allclose(
        discretized_logistic_log_prob(images, location, log_scale), torch.stack(each).sum(0), rtol=1e-5
    )


@pytest.fixture
def prior() -> FlowPrior:
    torch.manual_seed(0)
    prior = FlowPrior(5, num_classes=3, steps=4, hidden_dim=16)
    for weights in prior.parameters():  # it begins as the identity
        torch.nn.init.normal_(weights, std=0.3)
    return prior.double()


def test_the_prior_has_the_density_of_what_it_draws(prior):
    """By the change of variables, with a Jacobian that autograd finds."""
    labels, noise = torch.tensor([2]), torch.randn(1, 5, dtype=torch.float64)
    latent = prior.latent(noise, labels)
    jacobian = torch.autograd.functional.jacobian(lambda z: prior.latent(z[None], labels)[0], noise[0])
    expected = log_normal(noise) - torch.linalg.slogdet(jacobian).logabsdet
    assert not torch.allclose(latent, noise, atol=0.1)
    assert torch.allclose(prior.log_density(latent, labels), expected, rtol=1e-5, atol=1e-5)


def test_each_label_has_its_own_prior(prior):
    noise = torch.randn(1, 5, dtype=torch.float64)
    assert not torch.allclose(prior.latent(noise, torch.tensor([0])), prior.latent(noise, torch.tensor([1])))


def test_with_the_textbooks_prior_the_kl_is_the_textbooks():
    torch.manual_seed(0)
    vae = VAE(latent_dim=3, flow_steps=0).eval()
    images, labels = torch.rand(1, 1, 28, 28), torch.tensor([4])
    with torch.no_grad():
        mean, log_std = vae.encoder(images, labels)
        many = 20_000
        _, kl = vae.evidence(images.expand(100, -1, -1, -1), labels.expand(100), torch.randn(100, 3))
        noise = torch.randn(many, 3)
        latent = mean + log_std.exp() * noise
        estimate = (log_normal(noise) - log_std.sum(1) - vae.prior.log_density(latent, labels.expand(many))).mean()
    exact = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
    assert estimate.item() == pytest.approx(exact.item(), abs=0.05)
    assert kl.item() == pytest.approx(exact.item(), abs=0.5)


def test_a_part_of_the_training_loss_chooses_the_best_checkpoint(fit_args, tmp_path):
    monitor = ["--model", "VAE", "--checkpoint.monitor", "train_kl", "--trainer.max_epochs", "1"]
    assert main([*fit_args, *monitor, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert (tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt").is_file()


def test_the_bound_is_logged_in_its_parts_and_reconstructions_lie_beside_the_samples(fit_args, tmp_path):
    assert main([*fit_args, "--model", "VAE", "--trainer.default_root_dir", str(tmp_path)]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    header, *lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    for prefix in ("train", "val"):
        found = [row for row in rows if row[f"{prefix}_kl"]]
        assert found
        for row in found:
            parts = float(row[f"{prefix}_kl"]) + float(row[f"{prefix}_reconstruction"])
            assert parts == pytest.approx(float(row[f"{prefix}_loss"]), rel=1e-5)
    for epoch in (0, 1):
        samples, reconstructions = (
            Image.open(run / name / f"epoch={epoch:03d}.png") for name in ("samples", "reconstructions")
        )
        assert samples.height == 302
        assert reconstructions.height > samples.height  # two rows a label
