"""Inversion (``condgen invert``, ``generator.invert``), the reconstruction error, and inpainting."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from condgen.cli.main import main
from condgen.errors import UsageError
from condgen.generators import DNN, GAN, VAE, Diffusion, Drifting
from condgen.nn.coupling import FlowPrior
from condgen.nn.inversion import optimize_noise
from condgen.sampling.inpainting import inpaint

SHAPE = {"num_classes": 3, "image_shape": (1, 16, 16)}
LABELS = torch.tensor([0, 2])


def test_optimized_noise_recovers_the_image_and_stays_in_the_unit_interval():
    images = torch.tensor([[0.2, 0.9], [2.0, -1.0]])  # the second image is out of reach
    noise = optimize_noise(lambda noise: noise, images, torch.full((1, 2, 2), 0.5), bounded=True, steps=50)
    assert_close(noise[0], images[0], atol=0.02, rtol=0)
    assert noise.min() == 0
    assert 0.9 < noise.max() < 1


def test_optimized_noise_is_the_best_of_all_starts():
    starts = torch.tensor([[[3.0]], [[-1.2]], [[3.1]]])  # local minimum at 3, global minimum at -1

    def generate(noise):
        return torch.minimum((noise - 3).abs() + 0.5, (noise + 1).abs())

    noise = optimize_noise(generate, torch.zeros(1, 1), starts, bounded=False, steps=50)
    assert generate(noise).item() < 0.1


@pytest.mark.parametrize("family", [DNN, GAN, Drifting, VAE, Diffusion])
def test_inverted_noise_has_the_shape_and_range_of_the_family(family):
    generator = family(**SHAPE).eval()
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    noise = generator.invert(images, LABELS)
    generator.check_labels_and_noise(LABELS, noise)
    assert noise.isfinite().all()
    assert not noise.requires_grad
    if generator.noise_distribution == "uniform":
        assert 0 <= noise.min() <= noise.max() < 1
    assert_close(noise, generator.invert(images, LABELS))


def test_inversion_by_optimization_gets_closer_with_more_steps():
    torch.manual_seed(0)
    generator = GAN(**SHAPE).eval()
    images, errors = torch.rand(2, 1, 16, 16), []
    for steps in (1, 5, 20):
        with torch.no_grad():
            generated = generator.generate(LABELS, generator.invert(images, LABELS, steps))
        errors.append((generated - images).square().mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_vae_inversion_reconstructs_the_posterior_mean():
    generator = VAE(**SHAPE).eval()
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        generated = generator.generate(LABELS, generator.invert(images, LABELS))
        assert_close(generated, generator.reconstruct(images, LABELS), atol=1e-4, rtol=0)


def test_prior_to_noise_is_the_inverse_of_sample():
    prior = FlowPrior(4, 3, 3)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    noise = torch.randn(2, 4)
    assert_close(prior.to_noise(prior.sample(noise, LABELS), LABELS)[0], noise, atol=1e-4, rtol=0)


def test_diffusion_inverts_its_own_samples():
    generator = Diffusion(**SHAPE, solver="heun", sampling_steps=20, guidance=1.0).eval()
    with torch.no_grad():
        images = generator.generate(LABELS, 0.1 * generator.sample_noise(0, range(2)))  # no pixel is clipped
        again = generator.generate(LABELS, generator.invert(images, LABELS, steps=20))
    assert_close(again, images, atol=0.05, rtol=0)


def test_ddpm_inversion_needs_enough_steps_even_if_predictions_leave_the_range_of_images(monkeypatch):
    generator = Diffusion(**SHAPE, objective="noise").eval()
    monkeypatch.setattr(generator, "predict", lambda network, x_t, t, labels: x_t / 2)
    images = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 16, 16)
    with pytest.raises(UsageError, match="--steps"):
        generator.invert(images, LABELS, steps=10)
    generator.invert(images, LABELS, steps=100)


def test_diffusion_refuses_a_bad_round_trip():
    generator = Diffusion(**SHAPE).eval()
    for parameter in generator.ema.parameters():
        torch.nn.init.constant_(parameter, 1e6)
    with pytest.raises(UsageError, match=r"not an inversion: .* mean squared error .*--steps"):
        generator.invert(torch.rand(2, 1, 16, 16), LABELS, steps=1)


@pytest.mark.parametrize("objective", ["flow", "noise"])
def test_inpainting_keeps_known_pixels_and_is_determined_by_the_noise(objective):
    generator = Diffusion(**SHAPE, objective=objective).eval()
    images, mask = torch.rand(2, 1, 16, 16), torch.zeros(16, 16, dtype=torch.bool)
    mask[:8] = True
    noise = generator.sample_noise(0, range(4))
    first, again, other = (inpaint(generator, images, mask, LABELS, z) for z in (noise[:2], noise[:2], noise[2:]))
    assert torch.equal(first[:, :, :8], images[:, :, :8])
    assert torch.equal(first, again)
    assert not torch.allclose(first[:, :, 8:], other[:, :, 8:])
    assert 0 <= first.min() <= first.max() <= 1


@pytest.mark.parametrize("mask", [torch.ones(16, 16), torch.ones(3, 3, dtype=torch.bool)])
def test_inpainting_rejects_a_mask_of_the_wrong_type_or_shape(mask):
    generator = Diffusion(**SHAPE).eval()
    with pytest.raises(UsageError, match="mask"):
        inpaint(generator, torch.rand(2, 1, 16, 16), mask, LABELS, generator.sample_noise(0, range(2)))


@pytest.mark.parametrize("family", [DNN, VAE, Diffusion])
@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(16, 16),
        torch.zeros(2, 3, 16, 16),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(2, 1, 16, 16, dtype=torch.uint8),
        torch.full((2, 1, 16, 16), 255.0),
        torch.full((2, 1, 16, 16), torch.nan),
    ],
    ids=["no batch", "colors", "too few", "bytes", "values of bytes", "NaN"],
)
def test_invert_rejects_images_of_a_wrong_shape_type_or_range(family, images):
    with pytest.raises(UsageError, match="The images"):
        family(**SHAPE).eval().invert(images, LABELS)


def test_inpainting_rejects_other_families():
    gan = GAN(**SHAPE).eval()
    with pytest.raises(UsageError, match="GAN cannot inpaint"):
        inpaint(
            gan, torch.rand(2, 1, 16, 16), torch.ones(16, 16, dtype=torch.bool), LABELS, gan.sample_noise(0, [0, 1])
        )


def test_invert_writes_a_row_for_each_image(last, tmp_path, capsys):
    picture = tmp_path / "inversion.png"
    assert main(["invert", "test", "--ckpt_path", last, "--output", str(picture)]) == 0
    assert Image.open(picture).size == (12 * 30 + 2, 10 * 30 + 2)
    output = capsys.readouterr()
    assert "mean squared error per pixel" in output.out
    assert "Replacing" not in output.err
    assert main(["invert", "test", "--ckpt_path", last, "--output", str(picture)]) == 0
    assert f"Replacing {picture}" in capsys.readouterr().err


def test_invert_prints_the_round_trip_error_of_a_diffusion(mnist_root, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").symlink_to(mnist_root)
    monkeypatch.chdir(tmp_path)
    assert main(["invert", "test", "--ckpt_path", "mnist", "--steps", "4"]) == 0
    coarse = float(re.findall(r"round trip .*: (\S+)", capsys.readouterr().out)[0])
    assert main(["invert", "test", "--ckpt_path", "mnist"]) == 0
    assert 0 < float(re.findall(r"round trip .*: (\S+)", capsys.readouterr().out)[0]) < coarse < 0.01


def test_invert_reads_pictures_of_some_labels(last, tmp_path):
    (tmp_path / "pictures" / "7").mkdir(parents=True)
    Image.new("L", (28, 28)).save(tmp_path / "pictures" / "7" / "a.png")
    picture = tmp_path / "inversion.png"
    assert main(["invert", str(tmp_path / "pictures"), "--ckpt_path", last, "--output", str(picture)]) == 0
    assert Image.open(picture).size == (12 * 30 + 2, 30 + 2)


def test_test_command_adds_the_reconstruction_error(trained, tmp_path):
    run = tmp_path / "lightning_logs" / "version_0"
    shutil.copytree(trained / "lightning_logs" / "version_0", run)
    assert main(["test", "--ckpt_path", str(run)]) == 0
    score = json.loads((run / "scores.json").read_text())["scores"]["reconstruction_error"]
    assert 0 < score["value"] < 1
    assert score["uncertainty"] > 0
    assert score["real"] is None
