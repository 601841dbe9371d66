"""What the contract promises of every family, whatever it learns."""

from __future__ import annotations

import copy
import csv
import io
import pickle

import pytest
import torch
from helpers.processes import finish, two_processes
from helpers.runs import FAMILIES, SMALL, refused

import condgen
from condgen import generators
from condgen.cli.main import main
from condgen.errors import UsageError
from condgen.files.images import to_bytes
from condgen.sampling.generate import sample_grid


def family(name: str, **settings):
    torch.manual_seed(0)
    return getattr(generators, name)(**settings).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_noise_determines_the_image(name):
    generator = family(name)
    labels = torch.tensor([3, 3, 7])
    noise = generator.draw_noise(5, [0, 1, 2])
    assert noise.shape == (3, *generator.noise_shape)
    with torch.no_grad():
        images = generator.generate(labels, noise)
        assert images.shape == (3, 1, 28, 28)
        assert 0 <= images.min() <= images.max() <= 1
        assert torch.equal(generator.generate(labels, noise), images)
        assert not torch.equal(images[0], images[1])  # the same label, other noise


@pytest.mark.parametrize("name", FAMILIES)
def test_a_samples_noise_hangs_on_its_number_and_seed_alone(name):
    generator = family(name)
    whole = generator.draw_noise(5, range(10))
    assert torch.equal(generator.draw_noise(5, [7, 2]), whole[[7, 2]])
    assert not torch.equal(generator.draw_noise(6, [7, 2]), whole[[7, 2]])


WRONG_REQUESTS = {
    "label 10": lambda labels, noise: (torch.tensor([3, 10]), noise),
    "label -1": lambda labels, noise: (torch.tensor([-1, 3]), noise),
    "label 2**40": lambda labels, noise: (torch.tensor([3, 2**40]), noise),
    "float labels": lambda labels, noise: (labels.float(), noise),
    "int32 labels": lambda labels, noise: (labels.int(), noise),
    "labels in a list": lambda labels, noise: (labels.tolist(), noise),
    "labels (2, 1)": lambda labels, noise: (labels[:, None], noise),
    "one label": lambda labels, noise: (labels[0], noise[:1]),
    "one noise for two labels": lambda labels, noise: (labels, noise[:1]),
    "two noises for one label": lambda labels, noise: (labels[:1], noise),
    "noise of another shape": lambda labels, noise: (labels, noise[..., :1]),
    "integer noise": lambda labels, noise: (labels, noise.long()),
    "noise in a list": lambda labels, noise: (labels, noise.tolist()),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_refuses_labels_and_noise_that_do_not_fit(name):
    generator = family(name)
    labels, noise = torch.tensor([3, 7]), generator.draw_noise(0, range(2))
    for wrong in WRONG_REQUESTS.values():
        with pytest.raises(UsageError):
            generator.generate(*wrong(labels, noise))


def test_generate_names_the_wrong_label_and_the_labels_that_there_are():
    generator = family("DNN")
    with pytest.raises(UsageError, match=r"-2.*0 to 9"):
        generator.generate(torch.tensor([3, -2]), generator.draw_noise(0, range(2)))


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_of_no_labels_gives_no_images(name):
    settings = {"guidance": 2.0} if name == "Diffusion" else {}
    generator = family(name, **settings)
    with torch.no_grad():
        images = generator.generate(torch.zeros(0, dtype=torch.int64), generator.draw_noise(0, []))
    assert images.shape == (0, 1, 28, 28)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copied_generator_generates_the_same_images(name):
    generator = family(name)
    labels, noise = torch.tensor([3, 7]), generator.draw_noise(0, range(2))
    content = io.BytesIO()
    torch.save(generator, content)
    copies = (
        pickle.loads(pickle.dumps(generator)),
        copy.deepcopy(generator),
        torch.load(io.BytesIO(content.getvalue()), weights_only=False),
    )
    with torch.no_grad():
        for copied in copies:
            assert torch.equal(copied.generate(labels, noise), generator.generate(labels, noise))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_generator_without_its_training_parts_generates_the_same_images(name):
    generator = family(name)
    labels, noise = torch.tensor([3, 7]), generator.draw_noise(0, range(2))
    needed = {id(weights) for weights in generator.sampler.state_dict(keep_vars=True).values()}
    with torch.no_grad():
        images = generator.generate(labels, noise)
        generator.remove_training_parts()
        assert torch.equal(generator.generate(labels, noise), images)
    assert {id(weights) for weights in generator.state_dict(keep_vars=True).values()} == needed


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("setting", [{"num_classes": 0}, {"image_shape": (1, -28, -28)}, {"image_shape": (28, 28)}])
def test_settings_without_labels_or_pixels_are_refused(name, setting):
    with pytest.raises(UsageError, match=next(iter(setting))):
        family(name, **setting)


def test_predict_refuses_images_that_are_nan(trained, tmp_path, capsys):
    """Weights of 1e38 are finite, and their products are not."""
    path = tmp_path / "last.ckpt"
    checkpoint = torch.load(trained / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["network.fc.0.weight"].fill_(1e38)
    torch.save(checkpoint, path)
    folder = tmp_path / "predictions"
    said = refused(["predict", "--ckpt_path", str(path), "--predictions.dirpath", str(folder)], capsys)
    assert "NaN" in said
    assert not folder.exists()


def test_a_grid_shows_each_sample_in_its_place_and_is_drawn_few_at_a_time():
    drawn_at_once = []

    class Counted(generators.DNN):
        def generate(self, labels, noise):
            drawn_at_once.append(len(labels))
            return super().generate(labels, noise)

    generator = Counted().eval()
    picture = sample_grid(generator, range(10), 13, seed=5)
    assert sum(drawn_at_once) == 130
    assert max(drawn_at_once) <= 64  # memory does not grow with labels and samples
    with torch.no_grad():
        sample = generator.generate(torch.tensor([7]), generator.draw_noise(5, [7 * 13 + 4]))
    top, left = 7 * 30 + 2, 4 * 30 + 2  # two pixels around each image of 28 by 28
    shown = picture[0, top : top + 28, left : left + 28].int()
    assert (shown - to_bytes(sample)[0, 0].int()).abs().max() <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_another_shape_and_number_of_classes(name):
    generator = family(name, num_classes=26, image_shape=(3, 32, 24))
    noise = generator.draw_noise(0, range(2))
    with torch.no_grad():
        assert generator.generate(torch.tensor([0, 25]), noise).shape == (2, 3, 32, 24)


@pytest.mark.parametrize("name", FAMILIES)
def test_constructor_rejects_sides_that_are_not_divisible_by_four(name):
    with pytest.raises(UsageError, match=r"\[1, 30, 28\]"):
        family(name, image_shape=(1, 30, 28))


def rows(run) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_precision_trains_what_float32_trains(name, fit_args, tmp_path):
    losses = []
    few = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        common = ["--trainer.precision", precision, "--trainer.default_root_dir", str(folder)]
        assert main([*fit_args, "--model", name, *SMALL.get(name, []), *few, *common]) == 0
        losses.append([float(row["val_loss"]) for row in rows(folder / "lightning_logs/version_0") if row["val_loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1] != losses[0]  # it was another precision
    assert main(["predict", "--data.samples_per_label", "1", *common]) == 0


def test_gradients_are_clipped_in_mixed_precision_too(fit_args, tmp_path):
    common = ["--trainer.precision", "bf16-mixed", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *common, "--trainer.gradient_clip_val", "1e-6"]) == 0
    saved = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    means = [state["exp_avg"].flatten() for state in saved["optimizer_states"][0]["state"].values()]
    assert 1e-8 < torch.cat(means).norm() < 1e-6


@pytest.mark.parametrize(
    "name", [name if name == "GAN" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_two_processes_resume_every_family_exactly(name, fit_args, tmp_path):
    """Two networks that learn; a minute for the others: pytest -m slow -n 0 tests/generators/test_contract.py"""
    few = ["--trainer.limit_val_batches", "1", "--sample_grids.every_n_epochs", "9"]
    few += ["--model.schedule", "constant"]  # any other follows the length of the training
    fit = [*fit_args, "--model", name, *SMALL.get(name, []), *few, "--trainer.default_root_dir"]
    finish(*two_processes([*fit, "whole"], tmp_path))
    finish(*two_processes([*fit, "cut", "--trainer.max_epochs", "1"], tmp_path))
    finish(*two_processes([*fit, "cut", "--ckpt_path", "last"], tmp_path))
    whole, cut = (tmp_path / folder / "lightning_logs" / "version_0" for folder in ("whole", "cut"))
    assert (cut / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    a, b = (condgen.load(run).state_dict() for run in (whole, cut))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_gathered_and_clipped_for_every_family(name, fit_args, tmp_path):
    few = ["--trainer.limit_val_batches", "1", *SMALL.get(name, [])]
    options = ["--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.5"]
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, "--model", name, *few, *options, *folder]) == 0
    checkpoint = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6  # of 2 epochs of 5 batches
