"""condgen.load rejects damaged files, and files whose hyperparameters need more memory than their weights."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.runs import refused

import condgen
from condgen.checkpoints.find import PRETRAINED
from condgen.checkpoints.read import check_optimizer_states
from condgen.cli.main import main
from condgen.data.datasets import MNIST
from condgen.errors import UsageError
from condgen.evaluation.evaluator import find_evaluator
from condgen.generators import DNN, GAN, VAE, ConditionalGenerator
from condgen.generators.base import class_path
from condgen.metrics.classifier import accuracy

TINY = {"image_shape": (1, 4, 4)}


def write_weights(path, generator: ConditionalGenerator, settings=None, weights=None) -> None:
    """Write a file like ``condgen export --format safetensors``, optionally with other hyperparameters or weights."""
    about = {"settings": json.dumps({**generator.hparams, **(settings or {})}), "class": class_path(generator)}
    about["datamodule"] = json.dumps({"class_path": "condgen.data.datasets.MNIST", "init_args": {}})
    about["trained"] = json.dumps({"epochs": 1, "steps": 1, "seed": 0, "minutes": None})
    saved = (
        {name: weight.contiguous() for name, weight in generator.state_dict().items()} if weights is None else weights
    )
    path.write_bytes(safetensors.torch.save(saved, {**about, "condgen": condgen.__version__}))


def write_checkpoint(path, generator: ConditionalGenerator, settings=None, weights=None) -> None:
    """Write a checkpoint like ``condgen fit``, optionally with other hyperparameters or weights."""
    origin = {"seed": 0, "model": class_path(generator), "data": None, "train_loss": [], "version": condgen.__version__}
    content = {
        "state_dict": generator.state_dict() if weights is None else weights,
        "hyper_parameters": {**generator.hparams, **(settings or {})},
        "condgen": origin,
        "loops": {},
        "global_step": 1,
    }
    torch.save(content, path)


WRITERS = {"weights.safetensors": write_weights, "last.ckpt": write_checkpoint}


@pytest.fixture(params=WRITERS)
def file(request, tmp_path):
    """The path of a safetensors file, then of a checkpoint. Write it with WRITERS[file.name]."""
    return tmp_path / request.param


def test_load_rejects_hyperparameters_larger_than_the_weights_without_allocating_memory(file):
    WRITERS[file.name](file, DNN(**TINY), {"latent_dim": 1_000_000})  # 4 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=file.name):
        condgen.load(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize(
    "setting",
    [
        {"latent_dim": "62"},
        {"latent_dim": 62.0},
        {"latent_dim": 1e9},
        {"latent_dim": [62]},
        {"latent_dim": True},
        {"latent_dim": None},
        {"num_classes": "10"},
        {"num_classes": -1},
        {"num_classes": 10**30},
        {"image_shape": "149"},
        {"image_shape": 4},
        {"image_shape": [1, 4.0, 4]},
        {"image_shape": [1, -4, -4]},
        {"image_shape": [1, 4, 2**62]},
        {"image_shape": [0, 4, 4]},
        {"image_shape": {"1": 4}},
        {"betas": [0.9, "0.9"]},
        {"lr": "0.1"},
        {"schedule": "sometimes"},
        {"schedule": ["constant"]},
        {"optimizer": 1},
        {"unknown": 1},
    ],
    ids=str,
)
def test_load_rejects_hyperparameters_of_wrong_type_or_value(setting, file):
    WRITERS[file.name](file, DNN(**TINY), setting)
    with pytest.raises(UsageError, match=file.name):
        condgen.load(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_load_rejects_non_finite_weights(value, file):
    generator = DNN(**TINY)
    with torch.no_grad():
        generator.network.deconv[0].bias[3] = value
    WRITERS[file.name](file, generator)
    with pytest.raises(UsageError, match=rf"{file.name}.*network\.deconv\.0\.bias"):
        condgen.load(file)


def test_predict_rejects_a_checkpoint_with_non_finite_weights(trained, tmp_path, capsys):
    checkpoint = torch.load(trained / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["network.fc.0.bias"][0] = float("nan")
    torch.save(checkpoint, tmp_path / "last.ckpt")
    folder = tmp_path / "predictions"
    error = refused(
        ["predict", "--ckpt_path", str(tmp_path / "last.ckpt"), "--predictions.dirpath", str(folder)], capsys
    )
    assert f"{tmp_path / 'last.ckpt'}" in error
    assert "network.fc.0.bias" in error
    assert not folder.exists()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1024).to_sparse(),
        torch.zeros(1024, device="meta"),
        torch.zeros(1024, dtype=torch.complex64),
        torch.zeros(1024, dtype=torch.int64),
        torch.zeros(1024).to(torch.float8_e4m3fn),
        torch.zeros(1).expand(1023),
        "weights",
        None,
    ],
    ids=["sparse", "meta", "complex", "int", "float8", "shape", "text", "none"],
)
def test_load_rejects_weights_of_wrong_layout_dtype_or_shape(tensor, tmp_path):
    generator = DNN(**TINY)
    write_checkpoint(tmp_path / "last.ckpt", generator, weights=generator.state_dict() | {"network.fc.0.bias": tensor})
    with pytest.raises(UsageError, match=r"last.ckpt.*network\.fc\.0\.bias"):
        condgen.load(tmp_path / "last.ckpt")


@pytest.mark.parametrize("family", [DNN, GAN, VAE])
def test_load_rejects_missing_and_additional_weights(family, tmp_path):
    generator, path = family(**TINY), tmp_path / "weights.safetensors"
    generator.remove_training_parts()
    weights = {name: weight.contiguous() for name, weight in generator.state_dict().items()}
    write_weights(path, generator)
    assert condgen.load(path).state_dict().keys() == weights.keys()
    last = list(weights)[-1]
    for wrong in (
        {name: weight for name, weight in weights.items() if name != last},
        {**weights, "more": weights[last].clone()},
    ):
        write_weights(path, generator, weights=wrong)
        with pytest.raises(UsageError, match=path.name):
            condgen.load(path)


def test_load_converts_half_precision_weights_to_float32(tmp_path):
    generator = DNN(**TINY)
    write_checkpoint(tmp_path / "last.ckpt", generator, weights=copy.deepcopy(generator).bfloat16().state_dict())
    loaded = condgen.load(tmp_path / "last.ckpt")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert torch.allclose(loaded.network.fc[0].weight, generator.network.fc[0].weight, rtol=1e-2)


def test_load_rejects_a_fifo_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "weights.safetensors")
    with pytest.raises(UsageError, match=r"weights\.safetensors"):
        condgen.load(tmp_path / "weights.safetensors")


def test_load_rejects_deeply_nested_hyperparameters(tmp_path):
    about = {"settings": "[" * 100_000, "class": "condgen.generators.dnn.DNN", "condgen": condgen.__version__}
    (tmp_path / "deep.safetensors").write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, about))
    with pytest.raises(UsageError, match=r"deep\.safetensors"):
        condgen.load(tmp_path / "deep.safetensors")


@pytest.mark.parametrize("version", ["0.1.0", "1.0.0", "", 2, None])
def test_load_rejects_a_file_of_another_minor_version(version, file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(condgen, "__version__", version if file.suffix == ".ckpt" else str(version))
        WRITERS[file.name](file, DNN(**TINY))
    with pytest.raises(UsageError, match=f"{file.name} was written by condgen {version}"):
        condgen.load(file)


def test_load_accepts_a_file_of_another_patch_version(file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(condgen, "__version__", condgen.__version__.rpartition(".")[0] + ".99")
        WRITERS[file.name](file, DNN(**TINY))
    condgen.load(file)


DAMAGE = {
    "too few": lambda states: states.clear(),
    "too many": lambda states: states.append(states[0]),
    "a moment of another shape": lambda states: states[0]["state"][0].update(exp_avg=torch.zeros(3)),
    "indices in another order": lambda states: states[0]["param_groups"][0].update(params=[1, 0]),
    "an unknown index": lambda states: states[0]["state"].update({5: {"exp_avg": torch.zeros(3)}}),
    "text": lambda states: states.__setitem__(0, "state"),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_optimizer_states_that_do_not_match_the_weights_are_rejected(change):
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    states = [copy.deepcopy(optimizer.state_dict())]
    check_optimizer_states(states, [optimizer], "last.ckpt")
    change(states)
    with pytest.raises(UsageError, match=r"last\.ckpt"):
        check_optimizer_states(states, [optimizer], "last.ckpt")


# Exported generators, and the one that comes with condgen.


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder of an exported generator."""
    folder = tmp_path_factory.mktemp("exported") / "generator"
    run = str(trained / "lightning_logs" / "version_0")
    assert main(["export", "--ckpt_path", run, "--format", "safetensors", "--output", str(folder)]) == 0
    return folder


def test_exported_generator_generates_the_samples_of_its_checkpoint(exported, last, tmp_path):
    for name, path in (("checkpoint", last), ("folder", exported), ("file", exported / "generator.safetensors")):
        options = ["--data.labels", "[3,1]", "--predictions.dirpath", str(tmp_path / name)]
        assert main(["predict", "--ckpt_path", str(path), *options]) == 0
    expected = (tmp_path / "checkpoint" / "grid.png").read_bytes()
    assert (tmp_path / "folder" / "grid.png").read_bytes() == expected
    assert (tmp_path / "file" / "grid.png").read_bytes() == expected


def test_exported_folder_can_be_moved_and_loaded_like_a_download_from_the_hub(exported, last, tmp_path):
    shutil.copytree(exported, tmp_path / "downloaded")
    generator, original = condgen.load(tmp_path / "downloaded"), condgen.load(last)
    labels, noise = torch.arange(10), original.sample_noise(0, range(10))
    with torch.no_grad():
        assert torch.equal(generator.generate(labels, noise), original.generate(labels, noise))


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_exported_generator_is_refused_by_commands_that_need_a_checkpoint(command, exported, capsys):
    assert "generator.safetensors" in refused([command, "--ckpt_path", str(exported)], capsys)


def test_compare_says_how_to_score_an_exported_generator(exported, capsys):
    error = refused(["compare", str(exported)], capsys)
    assert f"condgen predict --ckpt_path {exported}" in error
    assert "condgen score" in error


def test_exported_metadata_has_no_local_paths(exported, mnist_root):
    assert str(mnist_root) not in (exported / "generator.json").read_text()
    assert str(mnist_root).encode() not in (exported / "generator.safetensors").read_bytes()


def test_export_half_halves_the_file_and_rounds_the_weights(exported, last, tmp_path):
    options = ["--format", "safetensors", "--half", "true", "--output", str(tmp_path / "half")]
    assert main(["export", "--ckpt_path", last, *options]) == 0
    half, full = (folder / "generator.safetensors" for folder in (tmp_path / "half", exported))
    assert half.stat().st_size < 0.51 * full.stat().st_size
    weights, original = (condgen.load(path).state_dict() for path in (half, full))
    for name, tensor in weights.items():
        assert torch.equal(tensor, original[name].half().float() if tensor.is_floating_point() else original[name])


def test_pretrained_generator_samples_digits_in_an_empty_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--ckpt_path", "mnist", "--predictions.format", "npz"]) == 0
    samples = np.load(tmp_path / "predictions" / "samples-00000-of-00001.npz")
    images, labels = (torch.from_numpy(samples[name]) for name in ("images", "labels"))
    evaluator = find_evaluator(MNIST(source="sample"))
    assert accuracy(evaluator.classifier, images, labels) > 0.95
    assert main(["export", "--ckpt_path", "mnist", "--format", "safetensors"]) == 0
    assert "score them with `condgen score`" in (tmp_path / "export" / "safetensors" / "README.md").read_text()
    assert PRETRAINED["mnist"].stat().st_size <= 4_000_000


def test_checkpoint_named_like_the_pretrained_generator_is_used_and_named(exported, last, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported, tmp_path / "mnist")
    with pytest.warns(match="Using mnist/generator.safetensors instead of the generator mnist"):
        assert type(condgen.load("mnist")).__name__ == "DNN"
    shutil.rmtree(tmp_path / "mnist")
    shutil.copy(last, tmp_path / "mnist")
    with pytest.warns(match="Using mnist instead of the generator mnist"):
        assert type(condgen.load("mnist")).__name__ == "DNN"


def test_other_folder_or_file_does_not_hide_the_pretrained_generator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for create, remove in ((Path.touch, Path.unlink), (Path.mkdir, Path.rmdir)):
        create(Path("mnist"))
        assert type(condgen.load("mnist")).__name__ == "Diffusion"
        with pytest.raises(UsageError):
            condgen.load("./mnist")
        remove(Path("mnist"))


@pytest.mark.parametrize("name", ["generator.onnx", "generator.pt2"])
def test_load_of_an_export_for_other_programs_says_how_to_export_for_condgen(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UsageError, match=f"{name} .*`condgen export .* --format safetensors --output {tmp_path}`"):
            condgen.load(path)
