"""``condgen predict``: the images, the manifest, and the files that it never overwrites."""

import csv
import os
import shutil

import numpy as np
import pytest
import torch
from helpers.processes import python_process
from helpers.runs import refused
from PIL import Image

import condgen
import condgen.sampling.prediction_files
from condgen.cli.main import main


@pytest.fixture
def predict(trained, tmp_path):
    """A function that runs ``condgen predict`` with options, and returns the folder that it wrote."""

    def predict(*options: str, name: str = "samples"):
        arguments = [
            "predict",
            "--trainer.default_root_dir",
            str(trained),
            "--predictions.dirpath",
            str(tmp_path / name),
        ]
        assert main([*arguments, *options]) == 0
        return tmp_path / name

    return predict


def manifest(folder):
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def pixels(path):
    return np.asarray(Image.open(path))


def expected(last, seed, labels, indices):
    generator = condgen.load(last)
    with torch.no_grad():
        images = generator.generate(torch.tensor(labels), generator.sample_noise(seed, indices))
    return (images * 255 + 0.5).clamp(0, 255).to(torch.uint8).numpy()


def assert_nearly_equal(a, b):
    """Another batch size may round differently: by one level, in at most one pixel of 10,000."""
    difference = np.abs(a.astype(int) - b.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-4


def test_predict_writes_ten_samples_of_each_label_into_the_newest_run(fit_args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main([*fit_args, "--trainer.max_epochs", "1"]) == 0
    assert main(["predict"]) == 0
    folder = tmp_path / "lightning_logs" / "version_1" / "predictions"
    rows = manifest(folder)
    assert [(row["index"], row["label"], row["seed"]) for row in rows] == [
        (str(index), str(index // 10), "0") for index in range(100)
    ]
    assert {path.name for path in folder.iterdir()} == {row["file"] for row in rows} | {"grid.png", "manifest.csv"}
    assert sorted(path.name for path in (tmp_path / "lightning_logs").iterdir()) == ["version_0", "version_1"]


def test_predict_images_and_grid_match_generate(predict, last):
    folder = predict("--data.labels", "[3,1,4]", "--data.samples_per_label", "4", "--data.sample_seed", "9")
    rows = manifest(folder)
    assert [row["label"] for row in rows] == ["3"] * 4 + ["1"] * 4 + ["4"] * 4
    samples = np.stack([pixels(folder / row["file"]) for row in rows])
    assert_nearly_equal(samples, expected(last, 9, [3] * 4 + [1] * 4 + [4] * 4, range(12))[:, 0])
    picture = pixels(folder / "grid.png")[..., 0]
    assert picture.shape == (2 + 3 * 30, 2 + 4 * 30)
    for number, image in enumerate(samples):
        top, left = 2 + 30 * (number // 4), 2 + 30 * (number % 4)
        assert np.array_equal(picture[top : top + 28, left : left + 28], image)


def test_predict_with_first_index_writes_the_remaining_samples_unchanged(predict):
    whole = predict("--data.labels", "[5,6]", name="whole")
    rest = predict("--data.labels", "[5,6]", "--data.first_index", "13", name="rest")
    rows = manifest(rest)
    assert [row["index"] for row in rows] == [str(index) for index in range(13, 20)]
    assert all((rest / row["file"]).read_bytes() == (whole / row["file"]).read_bytes() for row in rows)


def test_predict_can_generate_only_the_last_of_a_million_samples(predict, last):
    folder = predict("--data.labels", "[2]", "--data.samples_per_label", "1000000", "--data.first_index", "999999")
    (row,) = manifest(folder)
    assert row["index"] == "999999"
    assert_nearly_equal(pixels(folder / row["file"]), expected(last, 0, [2], [999_999])[0, 0])


@pytest.mark.parametrize("batch_size", ["1", "7", "1000"])
def test_predict_batch_size_changes_pixels_by_at_most_one_level(predict, batch_size):
    a, b = predict(name="a"), predict("--data.batch_size", batch_size, name="b")
    assert_nearly_equal(*(np.stack([pixels(folder / row["file"]) for row in manifest(a)]) for folder in (a, b)))


def test_predict_npz_has_the_same_images_as_png(predict, monkeypatch):
    monkeypatch.setattr(condgen.sampling.prediction_files, "SHARD_SIZE", 40)
    options = ("--data.first_index", "7", "--data.batch_size", "16")
    png, npz = predict(*options, name="png"), predict(*options, "--predictions.format", "npz", name="npz")
    assert {path.name for path in npz.iterdir()} == {
        "grid.png", "manifest.csv", *(f"samples-0000{shard}-of-00003.npz" for shard in range(3))
    }  # fmt: skip
    assert (png / "grid.png").read_bytes() == (npz / "grid.png").read_bytes()
    names = {row["index"]: row["file"] for row in manifest(png)}
    images_compared = 0
    for shard in range(3):
        with np.load(npz / f"samples-0000{shard}-of-00003.npz") as arrays:
            assert arrays["images"].dtype == np.uint8
            assert arrays["images"].shape[1:] == (1, 28, 28)
            assert arrays["indices"].tolist() == list(range(7, 100))[shard * 40 : shard * 40 + 40]
            assert arrays["labels"].tolist() == [index // 10 for index in arrays["indices"].tolist()]
            for image, index in zip(arrays["images"], arrays["indices"], strict=True):
                assert np.array_equal(image[0], pixels(png / names[str(index)]))
                images_compared += 1
    assert images_compared == 93


def test_predict_overwrites_an_existing_folder_only_with_overwrite_true(predict, trained, capsys):
    folder = predict()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = ["predict", "--trainer.default_root_dir", str(trained), "--predictions.dirpath", str(folder)]
    assert "--predictions.overwrite true" in refused([*again, "--data.labels", "[1]"], capsys)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    predict("--data.labels", "[1]", "--predictions.overwrite", "true")
    assert len(manifest(folder)) == 10
    assert {path.name for path in folder.parent.iterdir()} == {"samples"}


def test_predict_into_a_folder_that_cannot_be_created_leaves_no_files(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["predict", "--trainer.default_root_dir", str(trained)]
    folder = str(tmp_path / "file" / "sub")
    assert f"{folder} cannot be created" in refused([*arguments, "--predictions.dirpath", folder], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def files_under(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("foreign", ["notes.txt", "subfolder/0.png", "another manifest"])
def test_predict_overwrite_refuses_a_folder_with_files_of_other_programs(foreign, predict, trained, tmp_path, capsys):
    folder = predict("--data.labels", "[1]")
    if foreign == "another manifest":
        (folder / "manifest.csv").write_text("sku,price\n1,2\n")
    else:
        (folder / foreign).parent.mkdir(exist_ok=True)
        (folder / foreign).write_text("other program")
    before = files_under(tmp_path)
    again = ["predict", "--trainer.default_root_dir", str(trained), "--predictions.dirpath", str(folder)]
    assert str(folder) in refused([*again, "--predictions.overwrite", "true"], capsys)
    assert files_under(tmp_path) == before


@pytest.mark.parametrize("kind", ["partial", "replaced"])
@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_predict_removes_no_hidden_folder_of_other_programs(kind, overwrite, predict, trained, tmp_path, capsys):
    if overwrite == "true":
        predict("--data.labels", "[1]")
    (tmp_path / f".samples.{kind}").mkdir()
    (tmp_path / f".samples.{kind}" / "thesis.tex").write_text("other program")
    before = files_under(tmp_path)
    again = ["predict", "--trainer.default_root_dir", str(trained), "--predictions.dirpath", str(tmp_path / "samples")]
    assert f".samples.{kind}" in refused([*again, "--predictions.overwrite", overwrite], capsys)
    assert files_under(tmp_path) == before


def test_predict_killed_while_overwriting_keeps_the_previous_samples(predict, trained, tmp_path, capsys):
    folder = predict("--data.labels", "[1]")
    previous = files_under(folder)
    shutil.copytree(folder, tmp_path / ".samples.partial")
    folder.rename(tmp_path / ".samples.replaced")  # the state after a kill between the two renames
    again = ["predict", "--trainer.default_root_dir", str(trained), "--predictions.dirpath", str(folder)]
    refused(again, capsys)
    assert files_under(folder) == previous
    predict("--data.labels", "[2]", "--predictions.overwrite", "true")
    assert {row["label"] for row in manifest(folder)} == {"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]


def test_predict_overwrite_replaces_samples_with_a_scores_file(predict):
    folder = predict("--data.labels", "[1]")
    (folder / "scores.json").write_text("{}")
    predict("--data.labels", "[2]", "--predictions.overwrite", "true")
    assert {row["label"] for row in manifest(folder)} == {"2"}


def test_predict_into_the_root_folder_is_refused(trained, capsys):
    refused(["predict", "--trainer.default_root_dir", str(trained), "--predictions.dirpath", "/"], capsys)


def test_predict_refuses_a_checkpoint_with_nan_weights(last, tmp_path, capsys):
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["state_dict"]["network.fc.0.bias"].fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    request = ["predict", "--ckpt_path", str(tmp_path / "nan.ckpt"), "--predictions.dirpath", str(tmp_path / "samples")]
    refused(request, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["nan.ckpt"]


def test_predict_writes_word_png_with_the_word_in_each_row(predict, last):
    folder = predict("--data.labels", "2026", "--data.samples_per_label", "3")
    rows = manifest(folder)
    assert [row["label"] for row in rows] == [label for label in "2026" for _ in range(3)]
    picture = pixels(folder / "word.png")[..., 0]
    assert picture.shape == (2 + 3 * 30, 2 + 4 * 30)
    for number, row in enumerate(rows):
        top, left = 2 + 30 * (number % 3), 2 + 30 * (number // 3)
        assert np.array_equal(picture[top : top + 28, left : left + 28], pixels(folder / row["file"]))


def test_predict_with_shared_noise_uses_the_same_noise_for_all_labels(predict, last):
    folder = predict("--data.labels", "[5,6]", "--data.samples_per_label", "3", "--data.shared_noise", "true")
    rows = manifest(folder)
    assert [row["noise"] for row in rows] == ["0", "1", "2"] * 2
    samples = np.stack([pixels(folder / row["file"]) for row in rows])
    assert_nearly_equal(samples, expected(last, 0, [5] * 3 + [6] * 3, [0, 1, 2, 0, 1, 2])[:, 0])
    rest = predict("--data.labels", "[5,6]", "--data.samples_per_label", "3", "--data.shared_noise", "true",
                   "--data.first_index", "4", name="rest")  # fmt: skip
    for row in manifest(rest):
        assert (rest / row["file"]).read_bytes() == (folder / row["file"]).read_bytes()


def test_predict_walk_interpolates_through_all_samples_and_back(predict, last, trained, capsys):
    options = ("--data.labels", "[3,1,4]", "--data.samples_per_label", "2", "--data.sample_seed", "9")
    folder = predict(*options, "--predictions.walk", "5")
    samples = [pixels(folder / row["file"]) for row in manifest(folder)]
    with Image.open(folder / "walk.gif") as gif:
        frames = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            frames.append(np.asarray(gif.convert("L")))
    assert len(frames) == 2 * 5  # to the second sample and back
    assert frames[0].shape == (2 + 30, 2 + 3 * 30)
    for label in range(3):
        inside = (slice(2, 30), slice(2 + 30 * label, 30 + 30 * label))
        assert_nearly_equal(frames[0][inside], samples[2 * label])
        assert_nearly_equal(frames[5][inside], samples[2 * label + 1])
        assert np.abs(frames[2][inside].astype(int) - samples[2 * label]).max() > 1  # an image between the two samples
    strip = pixels(folder / "walk.png")[..., 0]
    assert strip.shape == (2 + 3 * 30, 2 + 6 * 30)
    assert_nearly_equal(strip[32:60, 2:30], samples[2])
    assert_nearly_equal(strip[32:60, 152:180], samples[3])
    again = ["predict", "--trainer.default_root_dir", str(trained), "--predictions.dirpath", str(folder.parent / "no")]
    error = refused([*again, "--predictions.walk", "5", "--data.samples_per_label", "1"], capsys)
    assert "data.samples_per_label 2" in error
    assert not (folder.parent / "no").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_predict_memory_does_not_grow_with_the_number_of_samples(last, tmp_path):
    """Takes seven minutes on 2 cores: pytest -m slow -n 0 -s (-s prints the peaks)."""
    peaks = []
    for per_label in ("10000", "100000"):
        request = ["predict", "--ckpt_path", last, "--data.samples_per_label", per_label, "--data.batch_size", "512"]
        process = python_process(
            ["condgen", *request, "--predictions.format", "npz", "--predictions.dirpath", per_label], tmp_path
        )
        assert process.stdout is not None
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        peaks.append(usage.ru_maxrss / 1024)
    print(f"peak memory of 100,000 and 1,000,000 samples: {peaks[0]:.0f} and {peaks[1]:.0f} MiB")
    assert len(list((tmp_path / "100000").glob("*.npz"))) == 16
    assert peaks[1] - peaks[0] <= 100, peaks  # MiB
