"""``condgen export``: the files generate the same images as PyTorch, and contain their metadata."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import onnxruntime
import pytest
import safetensors
import torch
from helpers.runs import FAMILIES, SMALL, refused
from huggingface_hub import ModelCard

import condgen
from condgen import generators
from condgen.cli.main import main
from condgen.errors import UsageError
from condgen.export import command
from condgen.export.formats import exported_program, from_onnx, from_pt2


@pytest.fixture(scope="module")
def run_of(fit_args, tmp_path_factory):
    """A function that returns a small run of a family, and trains it at the first call."""
    runs = {}

    def run_of(name: str):
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            few = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]
            short = ["--model.sampling_steps", "2", "--model.solver", "euler"] if name == "Diffusion" else []
            options = ["--model", name, *SMALL.get(name, []), *short, *few, "--trainer.default_root_dir", str(folder)]
            assert main([*fit_args, *options]) == 0
            runs[name] = folder / "lightning_logs" / "version_0"
        return runs[name]

    return run_of


def export(run, format: str, *options: str):
    assert main(["export", "--ckpt_path", str(run), "--format", format, *options]) == 0
    return run / "export" / format / f"generator.{format}"


def expected(generator, number: int):
    labels, noise = torch.arange(number) % 10, generator.sample_noise(7, range(number))
    with torch.no_grad():
        return labels, noise, generator.generate(labels, noise)


INVALID_REQUESTS = [([10], 1), ([-1], 1), ([-2], 1), ([-11], 1), ([2**40], 1), ([3, -1], 2)]
INVALID_REQUESTS += [([3], 4), ([3, 4, 5, 6], 1), ([3, 4], 3), ([3, 4], 0), ([], 3)]


def check_refuses_invalid_requests(generate, generator) -> None:
    for labels, noise_count in INVALID_REQUESTS:
        with pytest.raises(Exception, match=r"(?s)."):  # each runtime raises exceptions of its own type
            print(
                generate(torch.tensor(labels, dtype=torch.int64), generator.sample_noise(0, range(noise_count))).shape
            )


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_file_generates_the_same_images_as_pytorch_and_has_metadata(name, run_of, capsys):
    file = export(run_of(name), "onnx")
    session = onnxruntime.InferenceSession(str(file))
    generator = condgen.load(run_of(name))
    for number in (1, 12):
        labels, noise, images = expected(generator, number)
        (onnx_images,) = session.run(None, {"labels": labels.numpy(), "noise": noise.numpy()})
        assert onnx_images.shape == images.shape
        assert np.abs(onnx_images - images.numpy()).max() < 1e-4
    about = session.get_modelmeta().custom_metadata_map
    assert (about["family"], about["data"]) == (name, "MNIST")
    assert json.loads(about["labels"]) == list("0123456789")
    assert tuple(json.loads(about["noise_shape"])) == generator.noise_shape
    noise = generator.sample_noise(0, range(200))
    assert (about["noise_distribution"] == "uniform") == (0 <= noise.min() <= noise.max() < 1)
    assert about["command"] == f"condgen export --ckpt_path {run_of(name)} --format onnx"
    assert "Largest difference from PyTorch" in capsys.readouterr().out
    assert b"site-packages" not in file.read_bytes()  # the file contains no paths of this machine
    check_refuses_invalid_requests(from_onnx(file.read_bytes()), generator)


@pytest.mark.parametrize("name", FAMILIES)
def test_pt2_file_refuses_invalid_requests_and_contains_no_training_weights(name, run_of):
    file, generator = export(run_of(name), "pt2"), condgen.load(run_of(name))
    check_refuses_invalid_requests(from_pt2(file.read_bytes()), generator)
    needed = sum(weights.nbytes for weights in generator.sampler.state_dict().values())
    assert file.stat().st_size < 1.1 * needed + 500_000


def test_pt2_file_generates_images_without_condgen(run_of, tmp_path):
    file = export(run_of("GAN"), "pt2")
    labels, noise, images = expected(condgen.load(run_of("GAN")), 3)
    torch.save((labels, noise), tmp_path / "inputs.pt")
    program = f"""
import sys
sys.modules["condgen"] = sys.modules["lightning"] = None  # as if not installed
import torch
extra = {{"metadata.json": ""}}
generate = torch.export.load({str(file)!r}, extra_files=extra).module()
torch.save(generate(*torch.load("inputs.pt")), "images.pt")
print(extra["metadata.json"])
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, text=True, stdout=subprocess.PIPE
    )
    assert json.loads(printed.stdout)["family"] == "GAN"
    assert torch.allclose(torch.load(tmp_path / "images.pt"), images, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_exported_safetensors_can_be_loaded_and_generate_the_same_images(name, run_of):
    file = export(run_of(name), "safetensors")
    labels, noise, images = expected(condgen.load(run_of(name)), 3)
    loaded = condgen.load(file)
    with torch.no_grad():
        assert torch.equal(loaded.generate(labels, noise), images)
    needed = {id(weights) for weights in loaded.sampler.state_dict(keep_vars=True).values()}
    with safetensors.safe_open(file, framework="pt") as content:
        saved = set(content.keys())
    names = {name: id(weights) for name, weights in loaded.state_dict(keep_vars=True).items()}
    assert saved == names.keys()
    assert set(names.values()) == needed


def test_reconstruct_of_an_exported_vae_fails_because_it_has_no_encoder(run_of):
    """An encoder with untrained weights would silently give wrong images."""
    with pytest.raises(AttributeError, match="encoder"):
        condgen.load(export(run_of("VAE"), "safetensors")).reconstruct(torch.rand(2, 1, 28, 28), torch.tensor([0, 1]))


def test_load_refuses_truncated_and_foreign_safetensors(run_of, tmp_path):
    content = export(run_of("DNN"), "safetensors").read_bytes()
    for name, damaged_content in (
        ("truncated", content[:-1]),
        ("header", content[:100]),
        ("empty", b""),
        ("pickle", b"\x80\x02." * 9),
    ):
        (tmp_path / f"{name}.safetensors").write_bytes(damaged_content)
        with pytest.raises(UsageError, match=f"{name}.safetensors is not a complete file"):
            condgen.load(tmp_path / f"{name}.safetensors")
    foreign = content.replace(b"condgen.generators.dnn.DNN", b"elsewhere.families.dnn.DNN", 1)
    (tmp_path / "foreign.safetensors").write_bytes(foreign)
    with pytest.raises(UsageError, match="which condgen does not know"):
        condgen.load(tmp_path / "foreign.safetensors")


def test_export_uses_the_given_sampling_settings(run_of, capsys):
    options = ["--model.guidance", "3", "--model.sampling_steps", "3", "--model.guidance_interval", "[0,1]"]
    file = export(run_of("Diffusion"), "safetensors", *options)
    guided = condgen.load(run_of("Diffusion"), guidance=3, sampling_steps=3, guidance_interval=[0, 1])
    labels, noise, images = expected(guided, 3)
    with torch.no_grad():
        assert torch.equal(condgen.load(file).generate(labels, noise), images)
        assert not torch.equal(condgen.load(run_of("Diffusion")).generate(labels, noise), images)
    with pytest.raises(UsageError, match=r"model.objective is noise, but .* was trained with flow"):
        condgen.load(run_of("Diffusion"), objective="noise")
    arguments = ["export", "--ckpt_path", str(run_of("DNN")), "--model.guidance", "3"]
    assert "DNN has no setting guidance" in refused(arguments, capsys)


@pytest.mark.parametrize("settings", [{}, {"objective": "noise", "sampling_steps": 3}])
def test_export_of_guided_diffusion_generates_the_same_images(settings):
    """The other tests export the diffusion without guidance."""
    generator = generators.Diffusion(unet_channels=(8, 16), guidance=1.5, **settings).eval()
    generate = exported_program(generator).module()
    labels, noise, images = expected(generator, 3)
    assert torch.allclose(generate(labels, noise), images, atol=1e-5)


def test_export_replaces_its_own_readme_only(run_of, tmp_path, capsys):
    (tmp_path / "README.md").write_text("# Another project\n")
    arguments = ["export", "--ckpt_path", str(run_of("DNN")), "--format", "safetensors", "--output", str(tmp_path)]
    assert "README.md" in refused(arguments, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "README.md").unlink()
    for is_second in (False, True):  # the second export replaces the files of the first
        assert main(arguments) == 0
        assert (f"{tmp_path}/generator.safetensors" in capsys.readouterr().err) == is_second


class HiddenRandomness(generators.DNN):
    """A family that breaks the contract: noise does not determine the image."""

    def forward(self, labels, noise):
        return super().forward(labels, torch.rand_like(noise))


def copy_with_changed_checkpoint(run, folder, change):
    """Copies a run and applies ``change`` to the content of its checkpoint."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("export"))
    last = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, last)
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content["state_dict"]["network.fc.0.weight"].fill_(float("nan")), "is not finite"),
        (lambda content: content["state_dict"]["network.fc.0.weight"].fill_(1e38), "NaN"),
        (lambda content: content["condgen"].update(model="test_export.HiddenRandomness"), "differ from PyTorch's"),
    ],
    ids=["NaN weights", "NaN images", "random images"],
)
def test_export_refuses_nan_weights_nan_images_and_random_images(change, reason, run_of, tmp_path, capsys):
    run = copy_with_changed_checkpoint(run_of("DNN"), tmp_path / "run", change)
    capsys.readouterr()
    assert main(["export", "--ckpt_path", str(run), "--format", "safetensors"]) == 1
    assert reason in capsys.readouterr().err
    assert not (run / "export").exists()


def test_export_writes_all_files_before_it_prints(run_of, tmp_path):
    run, full = run_of("DNN"), os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", buffering=0)
    output = io.TextIOWrapper(full, write_through=True)
    with contextlib.redirect_stdout(output), pytest.raises(OSError, match="No space left"):
        command.export(str(run), "safetensors", str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4


def test_concurrent_exports_into_one_folder_succeed(run_of, tmp_path):
    errors = []

    def export_three_times():
        try:
            for _ in range(3):
                command.export(str(run_of("DNN")), "safetensors", str(tmp_path))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=export_three_times) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"generator.safetensors", "generator.json", "README.md", "grid.png"}
    condgen.load(tmp_path / "generator.safetensors")


def test_generator_json_equals_the_metadata_of_the_safetensors_file(run_of):
    folder = export(run_of("DNN"), "safetensors").parent
    about = json.loads((folder / "generator.json").read_text())
    with safetensors.safe_open(folder / "generator.safetensors", framework="pt") as content:
        saved = content.metadata()
    assert saved == {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    assert about["labels"] == list("0123456789")
    assert about["noise_shape"] == [62]


def test_export_without_onnx_packages_says_what_to_install(run_of, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "--ckpt_path", str(run_of("DNN"))]) == 1
    assert "pip install onnx onnxscript onnxruntime" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["onnx", "pt2", "safetensors"])
def test_model_card_is_valid_and_its_example_runs(format, run_of, monkeypatch):
    folder = export(run_of("DNN"), format).parent
    assert {path.name for path in folder.iterdir()} == {
        f"generator.{format}",
        "generator.json",
        "README.md",
        "grid.png",
    }
    card = ModelCard((folder / "README.md").read_text())
    assert (card.data.license, card.data.library_name, card.data.datasets) == ("mit", "condgen", ["mnist"])
    for heading in ("Data", "Recipe", "Scores", "Limits", "License"):
        assert f"\n## {heading}\n" in card.text
    assert "CC BY-SA 3.0" in card.text
    assert "Not measured: run `condgen test`" in card.text
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(card.text.partition("```python\n")[2].partition("```")[0], names)
    assert tuple(names["images"].shape) == (2, 1, 28, 28)


def test_model_card_has_the_scores_of_its_own_checkpoint_only(run_of, tmp_path):
    shutil.copytree(run_of("DNN"), tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    score = {"value": 0.75, "uncertainty": 0.01, "real": 0.9, "real_uncertainty": None}
    content = {
        "checkpoint": {"steps": checkpoint["global_step"]},
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in checkpoint["hyper_parameters"].items()},
        "data": "MNIST",
        "test_images": 70,
        "scores": {"accuracy": score, "coverage": {**score, "value": 0.0}, "novelty": {**score, "value": None}},
        "cost": {},
    }
    cards = []
    for steps in (content["checkpoint"]["steps"], 1):
        content["checkpoint"]["steps"] = steps
        (tmp_path / "run" / "scores.json").write_text(json.dumps(content))
        cards.append(ModelCard((export(tmp_path / "run", "safetensors").parent / "README.md").read_text()))
    content["checkpoint"]["steps"], content["data"] = checkpoint["global_step"], "QMNIST"
    (tmp_path / "run" / "scores.json").write_text(json.dumps(content))
    cards.append(ModelCard((export(tmp_path / "run", "safetensors").parent / "README.md").read_text()))
    assert cards[2].data.eval_results is None
    results = cards[0].data.eval_results
    assert [(result.metric_type, result.metric_value) for result in results] == [("accuracy", 0.75), ("coverage", 0.0)]
    assert {(result.dataset_name, result.dataset_split) for result in results} == {("MNIST", "test")}
    assert "| accuracy | 0.7500 ± 0.0100 |" in cards[0].text
    assert cards[1].data.eval_results is None  # the scores are of another checkpoint


@pytest.mark.parametrize("name", ["generator.safetensors", "generator.json", "grid.png", "README.md"])
def test_export_refuses_to_replace_foreign_files(name, run_of, tmp_path, capsys):
    (tmp_path / name).write_text("other program")
    command = ["export", "--ckpt_path", str(run_of("DNN")), "--format", "safetensors", "--output", str(tmp_path)]
    assert main(command) == 1
    assert name in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["other program"]
