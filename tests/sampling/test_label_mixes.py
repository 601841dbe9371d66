"""Class weights instead of labels, mixes in ``data.labels``, and the grid of guidance scales."""

import csv

import numpy as np
import pytest
import torch
from helpers.runs import FAMILIES, SMALL, refused
from PIL import Image
from torch.testing import assert_close

from condgen import generators
from condgen.cli.main import main
from condgen.data.mixes import Mix, label_tensor, parse_mixes
from condgen.errors import UsageError
from condgen.files.images import to_bytes
from condgen.sampling.label_interpolation import interpolate_labels

DIGITS = list("0123456789")
EYE = torch.eye(10)


def family(name: str, **settings):
    """A generator whose output depends on the label: some networks are initialized to return zeros."""
    torch.manual_seed(0)
    generator = getattr(generators, name)(**settings).eval()
    with torch.no_grad():
        for weights in generator.parameters():
            if not weights.any():
                weights.normal_(std=0.05)
    return generator


@pytest.mark.parametrize("name", FAMILIES)
def test_one_hot_weights_give_exactly_the_images_of_the_labels(name):
    generator, labels = family(name), torch.tensor([3, 7, 0, 9])
    noise = generator.sample_noise(0, range(4))
    with torch.no_grad():
        images = generator.generate(labels, noise)
        assert torch.equal(generator.generate(EYE[labels], noise), images)
        assert torch.equal(generator.generate(EYE[labels].double(), noise), images)
        assert torch.equal(generator.trajectory(EYE[labels], noise, 3), generator.trajectory(labels, noise, 3))


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_beside_a_mix_give_the_same_images_up_to_rounding(name):
    generator = family(name)
    noise = generator.sample_noise(0, range(3))
    with torch.no_grad():
        images = generator.generate(torch.tensor([4, 9, 4]), noise)
        mixed = generator.generate(torch.stack((EYE[4], EYE[9], (EYE[4] + EYE[9]) / 2)), noise)
    assert_close(mixed[:2], images[:2], atol=1e-4, rtol=0)
    assert not torch.allclose(mixed[2], images[2], atol=1e-4, rtol=0)


INVALID_WEIGHTS = {
    "sum of 2": EYE[4] + EYE[9],
    "negative sum of -2": EYE[4] - 2 * EYE[9],
    "nan": EYE[4] * torch.nan,
    "inf": torch.full((10,), torch.inf),
    "nine classes": EYE[4][:9],
    "int64 weights": EYE[4].long(),
}
UNCONDITIONAL = {"no label": 0 * EYE[4], "sum of one half": EYE[4] / 2, "negative guidance": EYE[7] - EYE[1]}


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_refuses_invalid_class_weights(name):
    generator = family(name)
    noise = generator.sample_noise(0, range(1))
    for weights in INVALID_WEIGHTS.values():
        with pytest.raises(UsageError):
            generator.generate(weights[None], noise)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Diffusion"])
@pytest.mark.parametrize("weights", UNCONDITIONAL.values(), ids=UNCONDITIONAL)
def test_families_without_a_null_label_refuse_weights_that_need_it(name, weights):
    generator = family(name)
    with pytest.raises(UsageError, match=rf"{name} has no (null label|negative guidance)"):
        generator.generate(weights[None], generator.sample_noise(0, range(1)))


@pytest.mark.parametrize("t", [0.0, 0.3])
def test_negative_weights_replace_the_null_label_in_the_guidance(t):
    diffusion = family("Diffusion", guidance=2.0, guidance_interval=(0.2, 0.5))
    x_t = diffusion.sample_noise(0, range(2))

    def prediction(label):
        return diffusion.predict(diffusion.ema, x_t, torch.tensor(t), torch.full((2,), label))

    with torch.no_grad():
        seven, one, null = prediction(7), prediction(1), prediction(10)
        negative = diffusion.guided_model((EYE[7] - EYE[1]).expand(2, -1))(x_t, t)
        unlabeled = diffusion.guided_model(torch.zeros(2, 10))(x_t, t)
    assert_close(negative, seven if t == 0 else one + 2 * (seven - one), atol=1e-4, rtol=0)
    assert_close(unlabeled, null, atol=1e-4, rtol=0)
    assert not torch.allclose(seven, one, atol=1e-3)


def test_interpolation_between_labels_starts_and_ends_with_the_plain_labels():
    generator = family("GAN")
    start, end, noise = torch.tensor([4, 3]), torch.tensor([9, 8]), generator.sample_noise(0, range(2))
    frames = interpolate_labels(generator, start, end, noise, steps=4)
    assert frames.shape == (5, 2, 1, 28, 28)
    with torch.no_grad():
        for frame, labels in ((frames[0], start), (frames[-1], end), (frames[2], (EYE[start] + EYE[end]) / 2)):
            assert torch.equal(frame, to_bytes(generator.generate(labels, noise)))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("4+9", ["4+9"]),
        ("9 + 4", ["4+9"]),
        ("4:0.3,9:0.7", ["4:0.3+9:0.7"]),
        ("4:3,9:7", ["4:0.3+9:0.7"]),
        ("4:0.3+9:0.7, 3+8", ["4:0.3+9:0.7", "3+8"]),
        ("4:1,9:3,3+8,5", ["4:0.25+9:0.75", "3+8", "5"]),
        ("none", ["none"]),
        ("7-1", ["7-1"]),
        ("7-1-2:3", ["7-1:0.25-2:0.75"]),
        ("none-1, 4+none", ["none-1", "4+none"]),
        ("4:1, 5", ["4", "5"]),
        ("7-1:0.3-none:0.7", ["7-1:0.3"]),
        ("4+4", ["4"]),
    ],
)
def test_mixes_are_parsed_to_labels_and_normalized_weights(text, names):
    mixes = parse_mixes(text, DIGITS, "MNIST")
    assert [str(mix) for mix in mixes] == names
    assert all(isinstance(mix, int) for mix, name in zip(mixes, names, strict=True) if name.isdigit())


def test_weights_of_mixes():
    half, weighted, negative, none, plain = label_tensor(parse_mixes("4+9, 4:3+9:1, 7-1, none, 3", DIGITS, "MNIST"))
    assert_close(half, (EYE[4] + EYE[9]) / 2)
    assert_close(weighted, 0.75 * EYE[4] + 0.25 * EYE[9])
    assert_close(negative, EYE[7] - EYE[1])
    assert_close(none, torch.zeros(10))
    assert_close(plain, EYE[3])


def test_class_names_may_contain_the_characters_of_mixes():
    mixes = parse_mixes("T-shirt+C++, T", ["T", "T-shirt", "C++"], "Words")
    assert mixes == [Mix((0.0, 0.5, 0.5), "1+2"), 0]


def test_predict_writes_mixes_under_their_names(trained, tmp_path, capsys):
    arguments = ["predict", "--trainer.default_root_dir", str(trained), "--data.samples_per_label", "2"]
    mixed = [*arguments, "--data.labels", "4:0.3+9:0.7, 4+9, 3", "--predictions.dirpath"]
    assert main([*mixed, str(tmp_path / "png"), "--predictions.walk", "2", "--predictions.trajectory", "true"]) == 0
    with open(tmp_path / "png/manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["4:0.3+9:0.7"] * 2 + ["4+9"] * 2 + ["3"] * 2
    assert [row["file"] for row in rows[::2]] == [
        "000000-label-4_0.3+9_0.7.png", "000002-label-4+9.png", "000004-label-3.png",
    ]  # fmt: skip
    assert all((tmp_path / "png" / row["file"]).is_file() for row in rows)
    assert not (tmp_path / "png/word.png").exists()
    with Image.open(tmp_path / "png/grid.png") as picture:
        assert picture.size == (2 + 2 * 30, 2 + 3 * 30)
    assert main([*mixed, str(tmp_path / "png"), "--predictions.overwrite", "true"]) == 0
    assert main([*mixed, str(tmp_path / "npz"), "--predictions.format", "npz"]) == 0
    with np.load(tmp_path / "npz/samples-00000-of-00001.npz") as arrays:
        assert arrays["labels"].dtype == np.float32
        assert np.allclose(arrays["labels"][2:], np.stack([(EYE[4] + EYE[9]) / 2] * 2 + [EYE[3]] * 2))
    error = refused(["score", str(tmp_path / "png"), "--data.root", str(tmp_path)], capsys)
    assert "4:0.3+9:0.7" in error


@pytest.fixture(scope="module")
def diffusion(fit_args, tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion")
    options = ["--model", "Diffusion", *SMALL["Diffusion"], "--trainer.max_epochs", "1"]
    assert (
        main([*fit_args, *options, "--trainer.limit_val_batches", "1", "--trainer.default_root_dir", str(folder)]) == 0
    )
    return folder


def test_predict_writes_a_row_per_sample_and_a_column_per_guidance_scale(diffusion, tmp_path):
    arguments = ["predict", "--trainer.default_root_dir", str(diffusion), "--data.labels", "7-1,none,3"]
    arguments += ["--data.samples_per_label", "2", "--predictions.dirpath"]
    grid = ["--predictions.guidance_grid", "[1,1.2,4]"]
    assert main([*arguments, str(tmp_path / "grid"), *grid]) == 0
    assert main([*arguments, str(tmp_path / "guided"), "--model.guidance", "4"]) == 0
    with Image.open(tmp_path / "grid/guidance.png") as picture, Image.open(tmp_path / "guided/grid.png") as samples:
        assert picture.size == (2 + 3 * 30, 2 + 6 * 30)
        last = np.asarray(picture.convert("L"))[2:30, 62:90].astype(int)
        guided = np.asarray(samples.convert("L"))[2:30, 2:30].astype(int)
    assert np.abs(last - guided).max() <= 1
