"""``condgen test``, ``score``, ``compare`` and ``evaluator``, and the scores beside training."""

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


def scores_of(path: Path) -> dict:
    return json.loads(path.read_text())["scores"]


def description_of(path: Path) -> dict:
    """The description in an evaluator's file."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["condgen"])


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """A copy of the finished run, which ``condgen test`` has scored."""
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


def test_each_score_detects_its_flaw(digits):
    """Real digits, their mean images, noisy ones, wrong labels, and half of the variety."""
    data = MNIST(source="sample")
    evaluator = find_evaluator(data)
    images, labels = torch.from_numpy(digits[0])[:, None], torch.from_numpy(digits[1]).long()
    rows = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    training, test, real = (labels_and_images(images, labels, rows[i : i + 1000]) for i in (0, 1000, 2000))
    means = torch.stack([training[0][training[1] == label].double().mean(0) for label in range(10)]).round().byte()
    noise = torch.randint(-90, 91, real[0].shape, generator=torch.Generator().manual_seed(0))
    bright = torch.stack([real[0][real[1] == label].double().mean() for label in range(10)])[real[1]]
    thick = real[0].double().mean((1, 2, 3)) > bright
    kinds = {
        "real": real,
        "mean": (means[real[1]], real[1]),
        "noisy": ((real[0].int() + noise).clamp(0, 255).byte(), real[1]),
        "mislabelled": (real[0], (real[1] + 1) % 10),
        "thick": (real[0][thick], real[1][thick]),
        "copied": training,
    }
    embedded_test = in_parts(evaluator.embed, test[0])
    found = {}
    for name, (samples, told) in kinds.items():
        one = {"accuracy": accuracy(evaluator.classifier, samples, told)}
        embedded = in_parts(evaluator.embed, samples)
        for metric, a, b in (
            (FrechetDistance(), embedded, embedded_test),
            (PrecisionRecallDensityCoverage(), embedded, embedded_test),
            (Diversity(), samples, test[0]),
            (Novelty(*training), samples, test[0]),
        ):
            metric.update(a, told, real=False)
            metric.update(b, test[1], real=True)
            one[type(metric).__name__] = metric.compute().reshape(-1, 1 if metric.compute().ndim < 2 else 4).mean(0)
        _, recall, density, coverage = one.pop("PrecisionRecallDensityCoverage").tolist()
        found[name] = {k: float(v) for k, v in one.items()} | {
            "recall": recall,
            "coverage": coverage,
            "density": density,
        }
    real_scores = found["real"]
    assert real_scores["accuracy"] > 0.99
    assert real_scores["coverage"] > 0.9
    assert real_scores["Diversity"] == pytest.approx(1, abs=0.05)
    assert real_scores["Novelty"] == pytest.approx(1, abs=0.05)
    assert found["mean"]["coverage"] < 0.3
    assert found["mean"]["Diversity"] == 0
    assert found["mean"]["FrechetDistance"] > 5 * real_scores["FrechetDistance"]
    assert found["noisy"]["FrechetDistance"] > 2 * real_scores["FrechetDistance"]
    assert found["mislabelled"]["accuracy"] < 0.02
    assert found["mislabelled"]["coverage"] < 0.1
    assert found["thick"]["accuracy"] > 0.99
    assert found["thick"]["coverage"] < real_scores["coverage"] - 0.1
    assert found["copied"]["Novelty"] == 0


def labels_and_images(images, labels, rows):
    return images[rows], labels[rows]


# What condgen test leaves.


def test_condgen_test_writes_scores_of_samples_and_real_images_and_a_picture(scored):
    content = json.loads((scored / "scores.json").read_text())
    assert set(content["scores"]) == SCORES
    for score in content["scores"].values():
        assert {"value", "uncertainty", "real", "real_uncertainty"} <= score.keys()
    assert content["scores"]["accuracy"]["real"] > 0.97
    assert len(content["scores"]["coverage"]["per_label"]) == 10
    assert content["checkpoint"]["chosen"] == "the last of its training, by no score"
    assert (content["checkpoint"]["epochs"], content["checkpoint"]["steps"]) == (2, 10)
    assert content["samples"] == {"number": 70, "seed": 0}
    assert content["cost"]["parameters"] == 6_650_433
    assert content["cost"]["nfe"] == 1
    assert 0 < content["cost"]["training_minutes"] < 5
    assert content["evaluator"] == description_of(BUNDLED / "MNIST.safetensors")["sha256"]
    assert Image.open(scored / "nearest.png").size == (12 * 30 + 2, 5 * 30 + 2)
    assert sorted(path.name for path in scored.parent.iterdir()) == ["version_0"]


def test_scores_json_tells_how_best_checkpoint_was_chosen(scored, capsys):
    shutil.copytree(scored, scored.parent / "version_1")
    assert main(["test", "--ckpt_path", str(scored.parent / "version_1" / "checkpoints" / "best.ckpt")]) == 0
    content = json.loads((scored.parent / "version_1" / "scores.json").read_text())
    assert content["checkpoint"]["chosen"] == "the epoch with the min val_loss, which is measured on test images"
    shutil.rmtree(scored.parent / "version_1")


def test_scores_are_equal_for_two_processes_and_differ_for_another_seed(scored, tmp_path):
    """Two processes have the scores of one, to the last digit; another seed has others."""
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
def test_score_of_predictions_equals_score_of_their_generator(scored, tmp_path, form):
    folder = tmp_path / "drawn"
    options = ["--predictions.dirpath", str(folder), "--predictions.format", form, "--data.samples_per_label", "7"]
    assert main(["predict", "--ckpt_path", str(scored), *options, *ON_THE_CPU]) == 0
    root = yaml.safe_load((scored / "config.yaml").read_text())["data"]["init_args"]["root"]
    assert main(["score", str(folder), "--data.root", root]) == 0
    assert scores_of(folder / "scores.json") == scores_of(scored / "scores.json")
    assert (folder / "nearest.png").read_bytes() == (scored / "nearest.png").read_bytes()


def test_score_reads_npz_and_label_folders(digits, mnist_root, tmp_path):
    """Floats and bytes in an npz, and pictures in folders called by their label."""
    images, labels = (part[::50] for part in digits)
    np.savez(tmp_path / "floats.npz", images=(images / 255).astype(np.float32), labels=labels)
    np.savez_compressed(tmp_path / "bytes.npz", images=images[:, None], labels=labels.astype(np.int32))
    floats, whole = (read_samples(tmp_path / name, MNIST(source="sample")) for name in ("floats.npz", "bytes.npz"))
    assert torch.equal(floats.images, whole.images)
    assert torch.equal(floats.labels, whole.labels)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "folders" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(tmp_path / "folders" / str(label) / f"{number:03d}.png")
    found = []
    for name, left in (("floats.npz", "floats."), ("folders", "folders/")):
        assert main(["score", str(tmp_path / name), "--data.root", str(mnist_root)]) == 0
        found.append(scores_of(tmp_path / f"{left}scores.json"))
        assert (tmp_path / f"{left}nearest.png").is_file()
    assert found[0] == found[1]
    assert found[0]["accuracy"]["value"] > 0.98


def test_score_reads_folders_named_by_class(digits, tmp_path):
    data = FashionMNIST()
    for name, image in zip(data.classes, digits[0], strict=False):
        (tmp_path / name.replace("/", "-")).mkdir()
        Image.fromarray(image).save(tmp_path / name.replace("/", "-") / "one.png")
    found = read_samples(tmp_path, data)
    assert found.labels.tolist() == list(range(10))
    assert torch.equal(found.images[:, 0], torch.from_numpy(digits[0][:10]))


@pytest.mark.parametrize(
    ("damage", "says"),
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
def test_score_refuses_unusable_arrays(digits, mnist_root, tmp_path, capsys, damage, says):
    images, labels = (part[::50] for part in digits)
    np.savez(tmp_path / "samples.npz", **damage(images, labels.astype(np.int64)))
    assert says in refused(["score", str(tmp_path / "samples.npz"), "--data.root", str(mnist_root)], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


def test_score_refuses_damaged_files_by_name(mnist_root, tmp_path, capsys):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "code.npz", images=np.array([object()]), labels=np.array([0]))
    (tmp_path / "pictures" / "3").mkdir(parents=True)
    (tmp_path / "pictures" / "3" / "a.png").write_bytes(b"no picture")
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "manifest.csv").write_text("file,label\n../../secret.png,3\n")
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("cut.npz", "cut.npz is not a whole npz"),
        ("code.npz", "code.npz holds images of ()"),
        ("pictures", "a.png is not a whole picture"),
        ("predictions", f"{tmp_path / 'predictions' / 'secret.png'} cannot be read"),
        ("empty", "neither a manifest.csv nor folders"),
        ("nothing", "nothing cannot be read"),
    ):
        assert says in refused(["score", str(tmp_path / name), "--data.root", str(mnist_root)], capsys)


def test_npz_with_flipped_byte_is_refused_or_read(digits, tmp_path):
    images, labels = (part[::250] for part in digits)
    np.savez_compressed(tmp_path / "whole.npz", images=images, labels=labels.astype(np.int64))
    content, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "flipped.npz"
    for place in range(0, len(content), max(1, len(content) // 400)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        with contextlib.suppress(UsageError):
            read_samples(path, MNIST(source="sample"))


def test_score_with_few_images_of_a_label(digits, mnist_root, tmp_path):
    """Of label 7 there is one training image, of label 8 none."""
    shutil.copytree(mnist_root, tmp_path / "data")
    raw = tmp_path / "data" / "MNIST" / "raw"
    of_label = [digits[0][digits[1] == label] for label in range(10)]
    kept = [images[: {7: 1, 8: 0}.get(label, 20)] for label, images in enumerate(of_label)]
    write_idx(raw / "train-images-idx3-ubyte", np.concatenate(kept))
    write_idx(raw / "train-labels-idx1-ubyte", np.repeat(np.arange(10, dtype=np.uint8), [len(k) for k in kept]))
    np.savez(tmp_path / "drawn.npz", images=digits[0][::50], labels=digits[1][::50])
    assert main(["score", str(tmp_path / "drawn.npz"), "--data.root", str(tmp_path / "data")]) == 0
    scores = scores_of(tmp_path / "drawn.scores.json")
    assert set(scores["coverage"]["per_label"]) == set("01234569")
    assert scores["coverage"]["value"] is not None


def test_score_of_predictions_in_a_run_uses_the_data_set_of_the_run(scored, capsys):
    assert main(["predict", "--ckpt_path", str(scored), "--data.samples_per_label", "2", *ON_THE_CPU]) == 0
    capsys.readouterr()
    assert main(["score", str(scored / "predictions")]) == 0
    assert str(scored / "predictions" / "scores.json") in capsys.readouterr().out
    assert json.loads((scored / "predictions" / "scores.json").read_text())["data"] == "MNIST"


# Evaluators of other data sets.


def test_evaluator_command_trains_evaluator_beside_data_and_test_uses_it(mnist_root, trained, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(mnist_root / "MNIST", root / "KMNIST")
    kuzushiji = ["--data", "KMNIST", "--data.root", str(root)]
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *kuzushiji, *folder, "--trainer.max_epochs", "1"]) == 0
    assert f"condgen evaluator --data KMNIST --data.root {root}" in refused(["test", *folder], capsys).replace("`", "")
    assert main(["evaluator", *kuzushiji, "--epochs", "2"]) == 0
    evaluator = root / "KMNIST" / "evaluators" / "KMNIST.safetensors"
    assert description_of(evaluator)["features"]["epochs"] == 2
    assert "--overwrite true" in refused(["evaluator", *kuzushiji], capsys)
    assert main(["test", *folder]) == 0
    assert set(scores_of(tmp_path / "lightning_logs" / "version_0" / "scores.json")) == SCORES
    content = evaluator.read_bytes()
    evaluator.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "KMNIST.safetensors" in refused(["test", *folder], capsys)


def test_same_evaluator_command_trains_same_evaluator(mnist_root, tmp_path):
    made = []
    for name in ("a", "b"):
        arguments = ["--data.root", str(mnist_root), "--dirpath", str(tmp_path / name), "--epochs", "1"]
        assert main(["evaluator", *arguments]) == 0
        made.append((tmp_path / name / "MNIST.safetensors").read_bytes())
    assert made[0] == made[1]


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


# What was computed is kept.


class FullOutput(io.StringIO):
    """A standard output that takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_scores_are_written_before_they_are_printed(digits, mnist_root, tmp_path, monkeypatch):
    np.savez(tmp_path / "drawn.npz", images=digits[0][::250], labels=digits[1][::250])
    monkeypatch.setattr(sys, "stdout", FullOutput())
    with contextlib.suppress(OSError):
        main(["score", str(tmp_path / "drawn.npz"), "--data.root", str(mnist_root)])
    assert set(scores_of(tmp_path / "drawn.scores.json")) == SCORES
    assert (tmp_path / "drawn.nearest.png").is_file()


def test_evaluator_is_written_before_its_accuracy_is_printed(mnist_root, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", FullOutput())
    with contextlib.suppress(OSError):
        main(["evaluator", "--data.root", str(mnist_root), "--dirpath", str(tmp_path), "--epochs", "1"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST.safetensors"]


def test_scores_are_printed_if_they_cannot_be_written(digits, mnist_root, tmp_path, capsys):
    np.savez(tmp_path / "drawn.npz", images=digits[0][::250], labels=digits[1][::250])
    (tmp_path / "file").write_text("")
    output = ["--output", str(tmp_path / "file" / "folder")]
    assert main(["score", str(tmp_path / "drawn.npz"), "--data.root", str(mnist_root), *output]) == 1
    printed = capsys.readouterr()
    assert "coverage" in printed.out
    assert "cannot be written" in printed.err


# Side by side.


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
    fewer = refused(["compare", str(scored), str(other), "--output", str(tmp_path / "b.png")], capsys)
    assert "another number of samples each" in fewer
    for path, says in (("nothing", "There is no"), (str(scored / "metrics.csv"), "is not one of condgen's")):
        assert says in refused(["compare", path, "--output", str(tmp_path / "b.png")], capsys)
    assert not (tmp_path / "b.png").exists()


def test_compare_writes_picture_of_samples(scored, tmp_path, capsys):
    """What each draws for the same labels stands in the picture as it is drawn."""
    picture, beside = (tmp_path / name for name in ("scores.png", "samples.png"))
    common = ["compare", str(scored), "--output", str(picture), "--samples", str(beside)]
    assert main([*common, "--labels", "[1,7]"]) == 0
    two = Image.open(beside).convert("L")
    assert main([*common, "--labels", "[1,7,7,7]"]) == 0
    four = Image.open(beside).convert("L")
    assert four.height > two.height
    assert np.asarray(two).std() > 10
    picture.unlink()
    assert "labels is [10]: give some of 0 to 9" in refused([*common, "--labels", "[10]"], capsys)
    shutil.copy(scored / "scores.json", tmp_path / "scores.json")
    assert "has no checkpoints/last.ckpt" in refused(["compare", str(tmp_path), *common[2:]], capsys)
    trained_on = tmp_path / "trained_on"
    shutil.copytree(scored, trained_on)
    content = json.loads((trained_on / "scores.json").read_text())
    content["checkpoint"]["steps"] -= 1
    (trained_on / "scores.json").write_text(json.dumps(content))
    assert "was trained on since" in refused(["compare", str(trained_on), *common[2:]], capsys)
    assert not picture.exists()


# Beside training.


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["val_loss"]]


def test_scores_beside_training_leave_no_trace_in_it(fit_args, trained, tmp_path, monkeypatch):
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


def test_they_go_on_where_a_run_goes_on(fit_args, tmp_path, monkeypatch):
    """Also where they are taken every other epoch only, and the checkpoint is chosen by them."""
    monkeypatch.setattr(condgen.training.scores, "SAMPLES", 200)
    every_other = ["--training_scores.every_n_epochs", "2"]
    every_other += ["--checkpoint.monitor", "score_coverage", "--checkpoint.mode", "max"]
    whole, folder = (["--trainer.default_root_dir", str(tmp_path / name)] for name in ("whole", "parts"))
    assert main([*fit_args, *every_other, *whole, "--trainer.max_epochs", "3"]) == 0
    assert main([*fit_args, *every_other, *folder]) == 0
    again = ["--ckpt_path", "last", "--trainer.max_epochs", "3"]
    assert main([*fit_args, *every_other, *folder, *again]) == 0
    a, b = (tmp_path / name / "lightning_logs" / "version_0" / "metrics.csv" for name in ("whole", "parts"))
    assert a.read_bytes() == b.read_bytes()
    assert [bool(row["score_coverage"]) for row in rows(a.parent)] == [False, True, False]


def test_averaged_weights_are_scored_where_weights_are_averaged(fit_args, tmp_path, monkeypatch):
    """An average that never moves has the same scores in every epoch."""
    monkeypatch.setattr(condgen.training.scores, "SAMPLES", 200)
    average = ["--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.decay", "1.0"]
    options = ["--training_scores.every_n_epochs", "1", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*fit_args, *average, *options]) == 0
    first, second = rows(tmp_path / "lightning_logs" / "version_0")
    assert first["score_frechet_distance"] == second["score_frechet_distance"]
    assert first["train_loss_epoch"] != second["train_loss_epoch"]


def test_a_monitor_that_never_comes_is_said(fit_args, tmp_path):
    monitor = ["--checkpoint.monitor", "score_coverage", "--checkpoint.mode", "max"]
    options = ["--training_scores.every_n_epochs", "9", "--trainer.default_root_dir", str(tmp_path)]
    with pytest.warns(UserWarning, match=r"no best\.ckpt: no epoch had a score_coverage"):
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
