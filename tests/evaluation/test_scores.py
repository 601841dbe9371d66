"""``condgen test``, ``score``, ``compare`` and ``evaluator``, and the scores during training."""

import contextlib
import copy
import csv
import errno
import io
import json
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.idx_files import write_idx
from helpers.processes import ON_THE_CPU, finish, two_processes
from helpers.runs import refused, same_weights
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

import condgen.evaluation.evaluator
import condgen.training.scores
from condgen.cli.main import main
from condgen.data.datasets import MNIST, FashionMNIST
from condgen.errors import UsageError
from condgen.evaluation.evaluator import BUNDLED, NETWORKS, Evaluator, find_evaluator, read_evaluator, write_evaluator
from condgen.evaluation.sample_files import read_samples
from condgen.metrics.classifier import accuracy, in_parts
from condgen.metrics.diversity import Diversity
from condgen.metrics.frechet import FrechetDistance
from condgen.metrics.novelty import Novelty
from condgen.metrics.prdc import PrecisionRecallDensityCoverage

SCORES = {
    "accuracy", "gan_train_accuracy", "frechet_distance", "frechet_distance_per_label", "frechet_distance_random",
    "kernel_distance", "precision", "recall", "density", "coverage", "diversity", "novelty",
}  # fmt: skip
OF_GENERATOR = {"reconstruction_error"}  # only of `condgen test`


def scores_of(path: Path) -> dict:
    return json.loads(path.read_text())["scores"]


def description_of(path: Path) -> dict:
    """The description in the metadata of an evaluator's file."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["condgen"])


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """A copy of the finished run with the scores of ``condgen test``."""
    run = tmp_path_factory.mktemp("scored") / "lightning_logs" / "version_0"
    shutil.copytree(trained / "lightning_logs" / "version_0", run)
    assert main(["test", "--ckpt_path", str(run), *ON_THE_CPU]) == 0
    return run


# The bundled evaluators.


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_bundled_evaluator_matches_its_description(name):
    about = description_of(BUNDLED / f"{name}.safetensors")
    assert about["command"].startswith(f"condgen evaluator --data {name}")
    assert (about["training_images"], about["test_images"]) == (60_000, 10_000)
    evaluator = find_evaluator({"MNIST": MNIST, "FashionMNIST": FashionMNIST}[name]())
    assert evaluator.sha256 == about["sha256"]
    for part, network in (("features", evaluator.features), ("classifier", evaluator.classifier)):
        parameters = sum(weights.numel() for weights in network.parameters())
        assert about[part]["parameters"] == parameters <= 500_000
    assert about["features"]["layers"] != about["classifier"]["layers"]
    assert about["features"]["seed"] != about["classifier"]["seed"]


@pytest.mark.parametrize(
    ("name", "part", "at_least"),
    [
        ("MNIST", "features", 0.996),
        ("MNIST", "classifier", 0.996),
        ("FashionMNIST", "features", 0.93),
        ("FashionMNIST", "classifier", 0.93),
    ],
)
def test_bundled_evaluator_description_reports_high_test_accuracy(name, part, at_least):
    """Measured by ``condgen evaluator`` on the 10,000 test images, which condgen does not contain."""
    assert description_of(BUNDLED / f"{name}.safetensors")[part]["test_accuracy"] >= at_least


def test_bundled_evaluator_classifies_digits(digits):
    evaluator = find_evaluator(MNIST(source="sample"))
    images, labels = torch.from_numpy(digits[0])[:, None], torch.from_numpy(digits[1]).long()
    assert accuracy(evaluator.classifier, images, labels) > 0.995
    assert in_parts(evaluator.embed, images[:10]).shape == (10, 128)
    assert not any(weights.requires_grad for weights in evaluator.parameters())


def test_each_score_detects_the_flaw_it_measures(digits):
    """Real digits are compared with mean images, noisy images, wrong labels, thick digits only, and training images."""
    data = MNIST(source="sample")
    evaluator = find_evaluator(data)
    images, labels = torch.from_numpy(digits[0])[:, None], torch.from_numpy(digits[1]).long()
    rows = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    training, test, real = (select(images, labels, rows[i : i + 1000]) for i in (0, 1000, 2000))
    means = torch.stack([training[0][training[1] == label].double().mean(0) for label in range(10)]).round().byte()
    noise = torch.randint(-90, 91, real[0].shape, generator=torch.Generator().manual_seed(0))
    mean_brightness = torch.stack([real[0][real[1] == label].double().mean() for label in range(10)])[real[1]]
    thick = real[0].double().mean((1, 2, 3)) > mean_brightness
    sample_sets = {
        "real": real,
        "mean": (means[real[1]], real[1]),
        "noisy": ((real[0].int() + noise).clamp(0, 255).byte(), real[1]),
        "mislabeled": (real[0], (real[1] + 1) % 10),
        "thick": (real[0][thick], real[1][thick]),
        "copied": training,
    }
    embedded_test = in_parts(evaluator.embed, test[0])
    scores = {}
    for name, (samples, sample_labels) in sample_sets.items():
        results = {"accuracy": accuracy(evaluator.classifier, samples, sample_labels)}
        embedded = in_parts(evaluator.embed, samples)
        for metric, a, b in (
            (FrechetDistance(), embedded, embedded_test),
            (PrecisionRecallDensityCoverage(), embedded, embedded_test),
            (Diversity(), samples, test[0]),
            (Novelty(*training), samples, test[0]),
        ):
            metric.update(a, sample_labels, real=False)
            metric.update(b, test[1], real=True)
            results[type(metric).__name__] = metric.compute().reshape(-1, 1 if metric.compute().ndim < 2 else 4).mean(0)
        _, recall, density, coverage = results.pop("PrecisionRecallDensityCoverage").tolist()
        scores[name] = {k: float(v) for k, v in results.items()} | {
            "recall": recall,
            "coverage": coverage,
            "density": density,
        }
    real_scores = scores["real"]
    assert real_scores["accuracy"] > 0.99
    assert real_scores["coverage"] > 0.9
    assert real_scores["Diversity"] == pytest.approx(1, abs=0.05)
    assert real_scores["Novelty"] == pytest.approx(1, abs=0.05)
    assert scores["mean"]["coverage"] < 0.3
    assert scores["mean"]["Diversity"] == 0
    assert scores["mean"]["FrechetDistance"] > 5 * real_scores["FrechetDistance"]
    assert scores["noisy"]["FrechetDistance"] > 2 * real_scores["FrechetDistance"]
    assert scores["mislabeled"]["accuracy"] < 0.02
    assert scores["mislabeled"]["coverage"] < 0.1
    assert scores["thick"]["accuracy"] > 0.99
    assert scores["thick"]["coverage"] < real_scores["coverage"] - 0.1
    assert scores["copied"]["Novelty"] == 0


def select(images, labels, rows):
    return images[rows], labels[rows]


# condgen test and condgen score.


def test_condgen_test_writes_scores_of_samples_and_real_images_and_nearest_png(scored):
    content = json.loads((scored / "scores.json").read_text())
    assert set(content["scores"]) == SCORES | OF_GENERATOR
    for score in content["scores"].values():
        assert {"value", "uncertainty", "real", "real_uncertainty"} <= score.keys()
    assert content["scores"]["accuracy"]["real"] > 0.97
    assert len(content["scores"]["coverage"]["per_label"]) == 10
    assert content["checkpoint"]["chosen"] == "the last one of the training run, not chosen by a score"
    assert (content["checkpoint"]["epochs"], content["checkpoint"]["steps"]) == (2, 10)
    assert content["samples"] == {"number": 70, "seed": 0}
    assert content["cost"]["parameters"] == 6_650_433
    assert content["cost"]["nfe"] == 1
    assert 0 < content["cost"]["training_minutes"] < 5
    assert content["evaluator"] == description_of(BUNDLED / "MNIST.safetensors")["sha256"]
    assert Image.open(scored / "nearest.png").size == (12 * 30 + 2, 5 * 30 + 2)
    assert sorted(path.name for path in scored.parent.iterdir()) == ["version_0"]


def test_scores_json_states_how_the_best_checkpoint_was_chosen(scored, capsys):
    shutil.copytree(scored, scored.parent / "version_1")
    assert main(["test", "--ckpt_path", str(scored.parent / "version_1" / "checkpoints" / "best.ckpt")]) == 0
    content = json.loads((scored.parent / "version_1" / "scores.json").read_text())
    assert content["checkpoint"]["chosen"] == "the epoch with the min val_loss, which is measured on test images"
    shutil.rmtree(scored.parent / "version_1")


def test_scores_are_equal_for_two_processes_and_differ_for_another_seed(scored, tmp_path):
    """The scores are exactly equal for one and two processes. Those of real images do not depend on the seed."""
    for name in ("two", "seed"):
        shutil.copytree(scored, tmp_path / name)
    processes = two_processes(["test", "--ckpt_path", str(tmp_path / "two")], tmp_path)
    assert main(["test", "--ckpt_path", str(tmp_path / "seed"), "--data.sample_seed", "5"]) == 0
    finish(*processes)
    two, seed = (scores_of(tmp_path / name / "scores.json") for name in ("two", "seed"))
    one = scores_of(scored / "scores.json")
    assert one == two
    assert one["frechet_distance"]["value"] != seed["frechet_distance"]["value"]
    assert one["frechet_distance"]["real"] == seed["frechet_distance"]["real"]


@pytest.mark.parametrize("form", ["png", "npz"])
def test_score_of_predictions_equals_the_scores_of_condgen_test(scored, tmp_path, form):
    folder = tmp_path / "samples"
    options = ["--predictions.dirpath", str(folder), "--predictions.format", form, "--data.samples_per_label", "7"]
    assert main(["predict", "--ckpt_path", str(scored), *options, *ON_THE_CPU]) == 0
    root = yaml.safe_load((scored / "config.yaml").read_text())["data"]["init_args"]["root"]
    assert main(["score", str(folder), "--data.root", root]) == 0
    of_the_generator = scores_of(scored / "scores.json")
    del of_the_generator["reconstruction_error"]  # needs the generator itself
    assert scores_of(folder / "scores.json") == of_the_generator
    assert (folder / "nearest.png").read_bytes() == (scored / "nearest.png").read_bytes()


def test_score_reads_npz_and_label_folders(digits, mnist_root, tmp_path):
    """The images are floats or bytes in an npz, or pictures in folders named by label."""
    images, labels = (part[::50] for part in digits)
    np.savez(tmp_path / "floats.npz", images=(images / 255).astype(np.float32), labels=labels)
    np.savez_compressed(tmp_path / "bytes.npz", images=images[:, None], labels=labels.astype(np.int32))
    floats, integers = (read_samples(tmp_path / name, MNIST(source="sample")) for name in ("floats.npz", "bytes.npz"))
    assert torch.equal(floats.images, integers.images)
    assert torch.equal(floats.labels, integers.labels)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "folders" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(tmp_path / "folders" / str(label) / f"{number:03d}.png")
    scores = []
    for name, prefix in (("floats.npz", "floats."), ("folders", "folders/")):
        assert main(["score", str(tmp_path / name), "--data.root", str(mnist_root)]) == 0
        scores.append(scores_of(tmp_path / f"{prefix}scores.json"))
        assert (tmp_path / f"{prefix}nearest.png").is_file()
    assert scores[0] == scores[1]
    assert scores[0]["accuracy"]["value"] > 0.98


def test_score_reads_folders_named_by_class(digits, tmp_path):
    data = FashionMNIST()
    for name, image in zip(data.classes, digits[0], strict=False):
        (tmp_path / name.replace("/", "-")).mkdir()
        Image.fromarray(image).save(tmp_path / name.replace("/", "-") / "one.png")
    samples = read_samples(tmp_path, data)
    assert samples.labels.tolist() == list(range(10))
    assert torch.equal(samples.images[:, 0], torch.from_numpy(digits[0][:10]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda images, labels: {"images": images}, "labels.npy"),
        (lambda images, labels: {"images": images[:, :14], "labels": labels}, "images of (1, 14, 28)"),
        (lambda images, labels: {"images": images, "labels": labels[:9]}, "(9,) int64 labels for 100 images"),
        (lambda images, labels: {"images": images, "labels": labels + 1}, "labels from 1 to 10"),
        (lambda images, labels: {"images": images / 127.5 - 1, "labels": labels}, "from -1 to 1"),
        (lambda images, labels: {"images": np.full(images.shape, np.nan), "labels": labels}, "floats from 0 to 1"),
        (lambda images, labels: {"images": images, "labels": labels * 1.0}, "whole number"),
        (lambda images, labels: {"images": images[:50], "labels": labels[:50]}, "no samples of the labels [5, 6"),
        (lambda images, labels: {"images": images[:0], "labels": labels[:0]}, "no samples of the labels"),
    ],
)
def test_score_refuses_unusable_arrays(digits, mnist_root, tmp_path, capsys, damage, message):
    images, labels = (part[::50] for part in digits)
    np.savez(tmp_path / "samples.npz", **damage(images, labels.astype(np.int64)))
    assert message in refused(["score", str(tmp_path / "samples.npz"), "--data.root", str(mnist_root)], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


def test_score_error_names_the_damaged_file(mnist_root, tmp_path, capsys):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "code.npz", images=np.array([object()]), labels=np.array([0]))
    (tmp_path / "pictures" / "3").mkdir(parents=True)
    (tmp_path / "pictures" / "3" / "a.png").write_bytes(b"no picture")
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "manifest.csv").write_text("file,label\n../../secret.png,3\n")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("cut.npz", "cut.npz is not a valid npz"),
        ("code.npz", "code.npz has images of ()"),
        ("pictures", "a.png is not a valid picture"),
        ("predictions", f"{tmp_path / 'predictions' / 'secret.png'} cannot be read"),
        ("empty", "neither a manifest.csv nor folders"),
        ("nothing", "nothing cannot be read"),
    ):
        assert message in refused(["score", str(tmp_path / name), "--data.root", str(mnist_root)], capsys)


def test_read_samples_of_an_npz_with_a_flipped_byte_raises_only_usage_errors(digits, tmp_path):
    images, labels = (part[::250] for part in digits)
    np.savez_compressed(tmp_path / "whole.npz", images=images, labels=labels.astype(np.int64))
    content, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "flipped.npz"
    for place in range(0, len(content), max(1, len(content) // 400)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        with contextlib.suppress(UsageError):
            read_samples(path, MNIST(source="sample"))


def test_score_leaves_out_coverage_of_labels_with_few_training_images(digits, mnist_root, tmp_path):
    """Label 7 has one training image, label 8 has none."""
    shutil.copytree(mnist_root, tmp_path / "data")
    raw = tmp_path / "data" / "MNIST" / "raw"
    of_label = [digits[0][digits[1] == label] for label in range(10)]
    kept = [images[: {7: 1, 8: 0}.get(label, 20)] for label, images in enumerate(of_label)]
    write_idx(raw / "train-images-idx3-ubyte", np.concatenate(kept))
    write_idx(raw / "train-labels-idx1-ubyte", np.repeat(np.arange(10, dtype=np.uint8), [len(k) for k in kept]))
    np.savez(tmp_path / "samples.npz", images=digits[0][::50], labels=digits[1][::50])
    assert main(["score", str(tmp_path / "samples.npz"), "--data.root", str(tmp_path / "data")]) == 0
    scores = scores_of(tmp_path / "samples.scores.json")
    assert set(scores["coverage"]["per_label"]) == set("01234569")
    assert scores["coverage"]["value"] is not None


def test_score_of_predictions_in_a_run_uses_the_dataset_of_the_run(scored, capsys):
    assert main(["predict", "--ckpt_path", str(scored), "--data.samples_per_label", "2", *ON_THE_CPU]) == 0
    capsys.readouterr()
    assert main(["score", str(scored / "predictions")]) == 0
    assert str(scored / "predictions" / "scores.json") in capsys.readouterr().out
    assert json.loads((scored / "predictions" / "scores.json").read_text())["data"] == "MNIST"


# Evaluators of other datasets.


def test_evaluator_command_writes_evaluator_into_the_data_folder_and_test_uses_it(
    mnist_root, trained, tmp_path, capsys
):
    root = tmp_path / "data"
    shutil.copytree(mnist_root / "MNIST", root / "KMNIST")
    kuzushiji = ["--data", "KMNIST", "--data.root", str(root)]
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *kuzushiji, *folder, "--trainer.max_epochs", "1"]) == 0
    assert main(["test", *folder]) == 0
    assert f"condgen evaluator --data KMNIST --data.root {root}" in capsys.readouterr().out
    scores = tmp_path / "lightning_logs" / "version_0" / "scores.json"
    without = {"gan_train_accuracy", "frechet_distance_random", "diversity", "novelty"}
    assert set(scores_of(scores)) == without | OF_GENERATOR
    assert main(["compare", str(scores), "--output", str(tmp_path / "scores.png")]) == 0
    assert (tmp_path / "scores.png").stat().st_size > 5_000
    assert main(["evaluator", *kuzushiji, "--epochs", "2"]) == 0
    evaluator = root / "KMNIST" / "evaluators" / "KMNIST.safetensors"
    assert description_of(evaluator)["features"]["epochs"] == 2
    assert "--overwrite true" in refused(["evaluator", *kuzushiji], capsys)
    assert main(["test", *folder]) == 0
    assert set(scores_of(scores)) == SCORES | OF_GENERATOR
    content = evaluator.read_bytes()
    evaluator.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "KMNIST.safetensors" in refused(["test", *folder], capsys)


def test_evaluator_command_run_twice_writes_the_same_bytes(mnist_root, tmp_path):
    contents = []
    for name in ("a", "b"):
        arguments = ["--data.root", str(mnist_root), "--dirpath", str(tmp_path / name), "--epochs", "1"]
        assert main(["evaluator", *arguments]) == 0
        contents.append((tmp_path / name / "MNIST.safetensors").read_bytes())
    assert contents[0] == contents[1]


def new_evaluator(seed: int) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights of an untrained evaluator, and their description."""
    torch.manual_seed(seed)
    about = {"num_classes": 10, "image_shape": [1, 28, 28], **copy.deepcopy(NETWORKS)}
    return dict(Evaluator((1, 28, 28), 10).state_dict()), about


@pytest.mark.parametrize("description", [None, "", "[1]", "5", "{", '{"sha256": [1]}', '{"sha256": 0}'])
def test_evaluator_with_damaged_description_is_refused_and_can_be_overwritten(description, tmp_path):
    path, data = tmp_path / "MNIST.safetensors", MNIST(source="sample")
    path.write_bytes(save(new_evaluator(0)[0], None if description is None else {"condgen": description}))
    with pytest.raises(UsageError, match=r"MNIST\.safetensors"):
        read_evaluator(path, data)
    write_evaluator(path, *new_evaluator(1))
    assert read_evaluator(path, data).sha256
    assert [file.name for file in tmp_path.iterdir()] == ["MNIST.safetensors"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "change",
    [
        {"embedding_dim": 200_000},
        {"embedding_dim": 10**12},
        {"layers": [[32, 3, 0]]},
        {"layers": [[32, 3]]},
        {"layers": [[-1, 3, 1]]},
        {"layers": 5},
        {"dropout": "x"},
    ],
)
def test_evaluator_with_impossible_networks_is_refused_before_memory_is_allocated(change, tmp_path):
    path, (weights, about) = tmp_path / "MNIST.safetensors", new_evaluator(0)
    about["features"].update(change)
    write_evaluator(path, weights, about)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=r"MNIST\.safetensors"):
        read_evaluator(path, MNIST(source="sample"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


def test_evaluator_command_trains_accurate_evaluator(mnist_root, tmp_path):
    assert main(["evaluator", "--data.root", str(mnist_root), "--dirpath", str(tmp_path), "--epochs", "6"]) == 0
    about = description_of(tmp_path / "MNIST.safetensors")
    assert min(about["features"]["test_accuracy"], about["classifier"]["test_accuracy"]) > 0.7
    data = MNIST(root=str(mnist_root))
    data.setup("fit")
    evaluator = read_evaluator(tmp_path / "MNIST.safetensors", data)
    measured = accuracy(evaluator.features, data.val_images.images, data.val_images.labels)
    assert measured == pytest.approx(about["features"]["test_accuracy"], abs=1e-5)


# Results are kept if writing or printing fails.


class FullOutput(io.StringIO):
    """A standard output on a full disk: every write fails."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_scores_are_written_before_they_are_printed(digits, mnist_root, tmp_path, monkeypatch):
    np.savez(tmp_path / "samples.npz", images=digits[0][::250], labels=digits[1][::250])
    monkeypatch.setattr(sys, "stdout", FullOutput())
    with contextlib.suppress(OSError):
        main(["score", str(tmp_path / "samples.npz"), "--data.root", str(mnist_root)])
    assert set(scores_of(tmp_path / "samples.scores.json")) == SCORES
    assert (tmp_path / "samples.nearest.png").is_file()


def test_evaluator_is_written_before_its_accuracy_is_printed(mnist_root, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", FullOutput())
    with contextlib.suppress(OSError):
        main(["evaluator", "--data.root", str(mnist_root), "--dirpath", str(tmp_path), "--epochs", "1"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST.safetensors"]


def test_scores_are_printed_if_they_cannot_be_written(digits, mnist_root, tmp_path, capsys):
    np.savez(tmp_path / "samples.npz", images=digits[0][::250], labels=digits[1][::250])
    (tmp_path / "file").write_text("")
    output = ["--output", str(tmp_path / "file" / "folder")]
    assert main(["score", str(tmp_path / "samples.npz"), "--data.root", str(mnist_root), *output]) == 1
    printed = capsys.readouterr()
    assert "coverage" in printed.out
    assert "cannot be written" in printed.err


# condgen compare.


def test_compare_prints_table_and_writes_picture(scored, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(scored, other)
    content = json.loads((other / "scores.json").read_text())
    content["scores"]["coverage"]["value"] = 0.5
    (other / "scores.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["compare", str(scored), str(other), "--output", str(tmp_path / "scores.png")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["DNN", "version_0", "DNN", "other", "real", "images"]
    assert next(line for line in printed if line.startswith("coverage")).split()[2] == "0.5000"
    picture = np.asarray(Image.open(tmp_path / "scores.png").convert("L"))
    assert picture.std() > 10
    content["samples"]["number"] = 20
    (other / "scores.json").write_text(json.dumps(content))
    error = refused(["compare", str(scored), str(other), "--output", str(tmp_path / "b.png")], capsys)
    assert "differ in number of samples" in error
    for path, message in (("nothing", "does not exist"), (str(scored / "metrics.csv"), "was not written by condgen")):
        assert message in refused(["compare", path, "--output", str(tmp_path / "b.png")], capsys)
    assert not (tmp_path / "b.png").exists()


def test_compare_writes_picture_of_samples(scored, tmp_path, capsys):
    """The picture has one row of samples per label."""
    scores_picture, samples_picture = (tmp_path / name for name in ("scores.png", "samples.png"))
    common = ["compare", str(scored), "--output", str(scores_picture), "--samples", str(samples_picture)]
    assert main([*common, "--labels", "[1,7]"]) == 0
    two_labels = Image.open(samples_picture).convert("L")
    assert main([*common, "--labels", "[1,7,7,7]"]) == 0
    four_labels = Image.open(samples_picture).convert("L")
    assert four_labels.height > two_labels.height
    assert np.asarray(two_labels).std() > 10
    scores_picture.unlink()
    assert "labels is [10]. Use one or more labels from 0 to 9" in refused([*common, "--labels", "[10]"], capsys)
    shutil.copy(scored / "scores.json", tmp_path / "scores.json")
    assert "has no checkpoints/last.ckpt" in refused(["compare", str(tmp_path), *common[2:]], capsys)
    resumed = tmp_path / "resumed"
    shutil.copytree(scored, resumed)
    content = json.loads((resumed / "scores.json").read_text())
    content["checkpoint"]["steps"] -= 1
    (resumed / "scores.json").write_text(json.dumps(content))
    assert "was trained further" in refused(["compare", str(resumed), *common[2:]], capsys)
    assert not scores_picture.exists()


# Scores during training.


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["val_loss"]]


def test_scores_during_training_do_not_change_the_training(fit_args, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(condgen.training.scores, "SAMPLES", 500)
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    monitor = ["--checkpoint.monitor", "score_accuracy", "--checkpoint.mode", "max"]
    assert main([*fit_args, *folder, *monitor, "--training_scores.every_n_epochs", "1"]) == 0
    run, without = tmp_path / "lightning_logs" / "version_0", trained / "lightning_logs" / "version_0"
    assert same_weights(run / "checkpoints" / "last.ckpt", without / "checkpoints" / "last.ckpt")
    for row, plain in zip(rows(run), rows(without), strict=True):
        assert {name: row[name] for name in plain} == plain
        assert 0 <= float(row["score_accuracy"]) <= 1
        assert float(row["score_frechet_distance"]) > 0
        assert float(row["score_coverage"]) < 0.3
        assert float(row["score_diversity"]) < 0.5
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    best = next(state for state in saved["callbacks"].values() if "monitor" in state)["best"]
    assert best == pytest.approx(max(float(row["score_accuracy"]) for row in rows(run)))
    assert not any("evaluator" in name for name in saved["state_dict"])
    assert len(saved["state_dict"]) == len(
        torch.load(without / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    )


def test_scores_during_training_of_a_resumed_run_match_an_uninterrupted_run(fit_args, tmp_path, monkeypatch):
    """Scores are measured in every second epoch, and the best checkpoint is chosen by one of them."""
    monkeypatch.setattr(condgen.training.scores, "SAMPLES", 200)
    every_other = ["--training_scores.every_n_epochs", "2"]
    every_other += ["--checkpoint.monitor", "score_coverage", "--checkpoint.mode", "max"]
    uninterrupted, resumed = (
        ["--trainer.default_root_dir", str(tmp_path / name)] for name in ("uninterrupted", "resumed")
    )
    assert main([*fit_args, *every_other, *uninterrupted, "--trainer.max_epochs", "3"]) == 0
    assert main([*fit_args, *every_other, *resumed]) == 0
    again = ["--ckpt_path", "last", "--trainer.max_epochs", "3"]
    assert main([*fit_args, *every_other, *resumed, *again]) == 0
    a, b = (tmp_path / name / "lightning_logs" / "version_0" / "metrics.csv" for name in ("uninterrupted", "resumed"))
    assert a.read_bytes() == b.read_bytes()
    assert [bool(row["score_coverage"]) for row in rows(a.parent)] == [False, True, False]


def test_scores_during_training_use_the_ema_weights(fit_args, tmp_path, monkeypatch):
    """With a decay of 1 the EMA weights never change, so their scores are the same in every epoch."""
    monkeypatch.setattr(condgen.training.scores, "SAMPLES", 200)
    ema = ["--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.decay", "1.0"]
    options = ["--training_scores.every_n_epochs", "1", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *ema, *options]) == 0
    first, second = rows(tmp_path / "lightning_logs" / "version_0")
    assert first["score_frechet_distance"] == second["score_frechet_distance"]
    assert first["train_loss_epoch"] != second["train_loss_epoch"]


def test_checkpoint_monitor_that_is_never_logged_warns(fit_args, tmp_path):
    monitor = ["--checkpoint.monitor", "score_coverage", "--checkpoint.mode", "max"]
    options = ["--training_scores.every_n_epochs", "9", "--trainer.default_root_dir", str(tmp_path)]
    with pytest.warns(UserWarning, match=r"no best\.ckpt, because no epoch had a finite score_coverage"):
        assert main([*fit_args, *monitor, *options]) == 0


def test_training_without_an_evaluator_warns_and_continues(mnist_root, tmp_path, capsys):
    shutil.copytree(mnist_root / "MNIST", tmp_path / "QMNIST")
    raw = tmp_path / "QMNIST" / "raw"
    for part, name in (("train", "train"), ("t10k", "test")):
        (raw / f"{part}-images-idx3-ubyte").rename(raw / f"qmnist-{name}-images-idx3-ubyte")
        (raw / f"{part}-labels-idx1-ubyte").rename(raw / f"qmnist-{name}-labels-idx2-int")
    arguments = ["fit", "--data", "QMNIST", "--data.root", str(tmp_path), "--trainer.max_epochs", "1"]
    arguments += ["--training_scores.every_n_epochs", "1", "--trainer.default_root_dir", str(tmp_path)]
    with pytest.warns(UserWarning, match="condgen evaluator --data QMNIST"):
        assert main(arguments) == 0
