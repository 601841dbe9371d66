"""The VAE's likelihood, its ELBO, and its logged metrics."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from condgen.cli.main import main
from condgen.generators import VAE
from condgen.generators.vae import discretized_logistic_log_prob
from condgen.nn.coupling import normal_log_prob

LEVELS = (torch.arange(256) / 255).view(-1, 1, 1, 1)


@pytest.mark.parametrize("mean", [-0.4, 0.0, 0.3, 1.0, 1.4])
@pytest.mark.parametrize("scale", [0.001, 0.05, 3.0])
def test_discretized_logistic_probabilities_of_the_256_levels_sum_to_one(mean, scale):
    log_scale = torch.full((1, 1, 1), math.log(scale))
    log_likelihood = discretized_logistic_log_prob(LEVELS, torch.full((256, 1, 1, 1), mean), log_scale)
    assert log_likelihood.isfinite().all()
    assert log_likelihood.double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_discretized_logistic_probability_of_a_level_is_the_mass_of_its_interval():
    mean, scale = 0.25, 0.1
    log_likelihood = discretized_logistic_log_prob(
        LEVELS, torch.full((256, 1, 1, 1), mean), torch.full((1, 1, 1), math.log(scale))
    )
    edges = torch.cat((torch.tensor([-math.inf]), (torch.arange(255) + 0.5) / 255, torch.tensor([math.inf]))).double()
    masses = torch.sigmoid((edges - mean) / scale).diff()
    assert torch.allclose(log_likelihood.double().exp(), masses, rtol=1e-3)


def test_discretized_logistic_log_prob_of_an_image_is_the_sum_over_pixels():
    images, mean = torch.rand(2, 3, 1, 4, 4).mul(255).round().div(255)
    log_scale = torch.randn(1, 4, 4) - 2
    log_probs_of_pixels = [
        discretized_logistic_log_prob(*(tensor[..., y : y + 1, x : x + 1] for tensor in (images, mean, log_scale)))
        for y in range(4)
        for x in range(4)
    ]
    assert torch.allclose(
        discretized_logistic_log_prob(images, mean, log_scale), torch.stack(log_probs_of_pixels).sum(0), rtol=1e-5
    )


def test_vae_kl_with_a_normal_prior_matches_the_closed_form():
    torch.manual_seed(0)
    vae = VAE(latent_dim=3, flow_steps=0).eval()
    images, labels = torch.rand(1, 1, 28, 28), torch.tensor([4])
    with torch.no_grad():
        mean, log_std = vae.encoder(images, labels)
        num_samples = 20_000
        _, kl = vae.elbo(images.expand(100, -1, -1, -1), labels.expand(100), torch.randn(100, 3))
        noise = torch.randn(num_samples, 3)
        latent = mean + log_std.exp() * noise
        estimate = (
            normal_log_prob(noise) - log_std.sum(1) - vae.prior.log_prob(latent, labels.expand(num_samples))
        ).mean()
    exact = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
    assert estimate.item() == pytest.approx(exact.item(), abs=0.05)
    assert kl.mean().item() == pytest.approx(exact.item(), abs=0.5)


def test_checkpoint_monitor_accepts_the_vaes_train_kl(fit_args, tmp_path):
    monitor = ["--model", "VAE", "--checkpoint.monitor", "train_kl", "--trainer.max_epochs", "1"]
    assert main([*fit_args, *monitor, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert (tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt").is_file()


def test_vae_logs_kl_and_reconstruction_and_saves_reconstruction_grids(fit_args, tmp_path):
    assert main([*fit_args, "--model", "VAE", "--trainer.default_root_dir", str(tmp_path)]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    header, *lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    for prefix in ("train", "val"):
        logged = [row for row in rows if row[f"{prefix}_kl"]]
        assert logged
        for row in logged:
            kl_and_reconstruction = float(row[f"{prefix}_kl"]) + float(row[f"{prefix}_reconstruction"])
            assert kl_and_reconstruction == pytest.approx(float(row[f"{prefix}_loss"]), rel=1e-5)
    for epoch in (0, 1):
        samples, reconstructions = (
            Image.open(run / name / f"epoch={epoch:03d}.png") for name in ("samples", "reconstructions")
        )
        assert samples.height == 302
        assert reconstructions.height > samples.height  # two rows per label
