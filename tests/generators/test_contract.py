"""The contract of ``ConditionalGenerator``, tested with every family."""

from __future__ import annotations

import copy
import csv
import io
import pickle

import pytest
import torch
from helpers.processes import finish, two_processes
from helpers.runs import FAMILIES, SMALL, refused
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

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
def test_noise_determines_the_image(name):
    generator = family(name)
    labels = torch.tensor([3, 3, 7])
    noise = generator.sample_noise(5, [0, 1, 2])
    assert noise.shape == (3, *generator.noise_shape)
    with torch.no_grad():
        images = generator.generate(labels, noise)
        assert images.shape == (3, 1, 28, 28)
        assert 0 <= images.min() <= images.max() <= 1
        assert torch.equal(generator.generate(labels, noise), images)
        assert not torch.equal(images[0], images[1])  # same label, different noise


@pytest.mark.parametrize("name", FAMILIES)
def test_sample_noise_depends_only_on_seed_and_sample_index(name):
    generator = family(name)
    noise = generator.sample_noise(5, range(10))
    assert torch.equal(generator.sample_noise(5, [7, 2]), noise[[7, 2]])
    assert not torch.equal(generator.sample_noise(6, [7, 2]), noise[[7, 2]])


INVALID_INPUTS = {
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
def test_generate_refuses_invalid_labels_and_noise(name):
    generator = family(name)
    labels, noise = torch.tensor([3, 7]), generator.sample_noise(0, range(2))
    for invalid in INVALID_INPUTS.values():
        with pytest.raises(UsageError):
            generator.generate(*invalid(labels, noise))


def test_generate_error_names_the_invalid_label_and_the_valid_range():
    generator = family("DNN")
    with pytest.raises(UsageError, match=r"-2.*0 to 9"):
        generator.generate(torch.tensor([3, -2]), generator.sample_noise(0, range(2)))


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_with_no_labels_returns_an_empty_batch(name):
    settings = {"guidance": 2.0} if name == "Diffusion" else {}
    generator = family(name, **settings)
    with torch.no_grad():
        images = generator.generate(torch.zeros(0, dtype=torch.int64), generator.sample_noise(0, []))
    assert images.shape == (0, 1, 28, 28)


@pytest.mark.parametrize("name", FAMILIES)
def test_copied_generator_generates_the_same_images(name):
    generator = family(name)
    labels, noise = torch.tensor([3, 7]), generator.sample_noise(0, range(2))
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
def test_generator_without_training_parts_generates_the_same_images(name):
    generator = family(name)
    labels, noise = torch.tensor([3, 7]), generator.sample_noise(0, range(2))
    needed = {id(weights) for weights in generator.sampler.state_dict(keep_vars=True).values()}
    with torch.no_grad():
        images = generator.generate(labels, noise)
        generator.remove_training_parts()
        assert torch.equal(generator.generate(labels, noise), images)
    assert {id(weights) for weights in generator.state_dict(keep_vars=True).values()} == needed


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("setting", [{"num_classes": 0}, {"image_shape": (1, -28, -28)}, {"image_shape": (28, 28)}])
def test_constructor_rejects_invalid_num_classes_and_image_shape(name, setting):
    with pytest.raises(UsageError, match=next(iter(setting))):
        family(name, **setting)


def test_predict_refuses_nan_images_of_finite_weights(trained, tmp_path, capsys):
    """Weights of 1e38 are finite, but their products overflow."""
    path = tmp_path / "last.ckpt"
    checkpoint = torch.load(trained / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["network.fc.0.weight"].fill_(1e38)
    torch.save(checkpoint, path)
    folder = tmp_path / "predictions"
    error = refused(["predict", "--ckpt_path", str(path), "--predictions.dirpath", str(folder)], capsys)
    assert "NaN" in error
    assert not folder.exists()


def test_sample_grid_places_samples_by_index_and_generates_in_small_batches():
    batch_sizes = []

    class CountingDNN(generators.DNN):
        def generate(self, labels, noise):
            batch_sizes.append(len(labels))
            return super().generate(labels, noise)

    generator = CountingDNN().eval()
    picture = sample_grid(generator, range(10), 13, seed=5)
    assert sum(batch_sizes) == 130
    assert max(batch_sizes) <= 64  # so that memory does not grow with the number of samples
    with torch.no_grad():
        sample = generator.generate(torch.tensor([7]), generator.sample_noise(5, [7 * 13 + 4]))
    top, left = 7 * 30 + 2, 4 * 30 + 2  # images of 28 by 28 pixels with a margin of 2
    tile = picture[0, top : top + 28, left : left + 28].int()
    assert (tile - to_bytes(sample)[0, 0].int()).abs().max() <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_supports_other_image_shapes_and_numbers_of_classes(name):
    generator = family(name, num_classes=26, image_shape=(3, 32, 24))
    noise = generator.sample_noise(0, range(2))
    with torch.no_grad():
        assert generator.generate(torch.tensor([0, 25]), noise).shape == (2, 3, 32, 24)


class RandomImages(LightningDataModule):
    """Images of random pixels in [0, 1]: four of the last label, then four of the first, and so on."""

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.num_classes, self.image_shape = num_classes, image_shape

    def train_dataloader(self):
        images, labels = torch.rand(16, *self.image_shape), (self.num_classes - 1) * (1 - torch.arange(16) // 4 % 2)
        return DataLoader(list(zip(images, labels.tolist(), strict=True)), batch_size=8)


@pytest.mark.parametrize(("classes", "image_shape"), [(1000, (3, 16, 16)), (2, (3, 20, 20)), (10, (1, 64, 64))])
@pytest.mark.parametrize("name", FAMILIES)
def test_family_trains_with_other_image_shapes_and_numbers_of_classes(name, classes, image_shape):
    generator = family(name, num_classes=classes, image_shape=image_shape)
    before = [weights.clone() for weights in generator.parameters()]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_steps=2, **quiet).fit(generator, datamodule=RandomImages(classes, image_shape))
    assert any(not torch.equal(a, b) for a, b in zip(before, generator.parameters(), strict=True))
    assert all(weights.isfinite().all() for weights in generator.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_constructor_rejects_image_sides_not_divisible_by_four(name):
    with pytest.raises(UsageError, match=r"\[1, 30, 28\]"):
        family(name, image_shape=(1, 30, 28))


def rows(run) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_mixed_precision_reaches_the_validation_loss_of_float32(name, fit_args, tmp_path):
    losses = []
    few = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        common = ["--trainer.precision", precision, "--trainer.default_root_dir", str(folder)]
        assert main([*fit_args, "--model", name, *SMALL.get(name, []), *few, *common]) == 0
        losses.append([float(row["val_loss"]) for row in rows(folder / "lightning_logs/version_0") if row["val_loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1] != losses[0]  # the precision did change
    assert main(["predict", "--data.samples_per_label", "1", *common]) == 0


def test_gradients_are_clipped_in_bf16_mixed_precision(fit_args, tmp_path):
    common = ["--trainer.precision", "bf16-mixed", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *common, "--trainer.gradient_clip_val", "1e-6"]) == 0
    saved = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    means = [state["exp_avg"].flatten() for state in saved["optimizer_states"][0]["state"].values()]
    assert 1e-8 < torch.cat(means).norm() < 1e-6


@pytest.mark.parametrize(
    "name", [name if name == "GAN" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_resume_with_two_processes_matches_uninterrupted_run(name, fit_args, tmp_path):
    """The GAN is always tested because it trains two networks. The other families take a minute:
    pytest -m slow -n 0 tests/generators/test_contract.py
    """
    few = ["--trainer.limit_val_batches", "1", "--sample_grids.every_n_epochs", "9"]
    few += ["--model.schedule", "constant"]  # other schedules depend on max_epochs, which differs here
    fit = [*fit_args, "--model", name, *SMALL.get(name, []), *few, "--trainer.default_root_dir"]
    finish(*two_processes([*fit, "uninterrupted"], tmp_path))
    finish(*two_processes([*fit, "resumed", "--trainer.max_epochs", "1"], tmp_path))
    finish(*two_processes([*fit, "resumed", "--ckpt_path", "last"], tmp_path))
    uninterrupted, resumed = (
        tmp_path / folder / "lightning_logs" / "version_0" for folder in ("uninterrupted", "resumed")
    )
    assert (resumed / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()
    a, b = (condgen.load(run).state_dict() for run in (uninterrupted, resumed))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_accumulated_and_clipped(name, fit_args, tmp_path):
    few = ["--trainer.limit_val_batches", "1", *SMALL.get(name, [])]
    options = ["--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.5"]
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, "--model", name, *few, *options, *folder]) == 0
    checkpoint = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6  # 2 epochs of 5 batches: 3 steps each
