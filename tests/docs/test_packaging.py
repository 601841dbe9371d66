"""The wheel contains the configs, the source distribution the tests, and commands find the installed configs."""

import inspect
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import condgen.generators
from condgen.cli.main import main

ROOT = Path(__file__).parents[2]
CONFIGS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").glob("*.yaml"))}


def build(command: str, folder: Path) -> Path:
    """Builds a distribution from the files that git tracks, and returns its path."""
    source = folder / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    script = f"import setuptools.build_meta as b; b.{command}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=source, capture_output=True, check=True)
    return next(path for path in folder.iterdir() if path.is_file())


def test_wheel_contains_configs_type_marker_and_evaluators(tmp_path):
    with zipfile.ZipFile(build("build_wheel", tmp_path)) as wheel:
        found = set(wheel.namelist())
        assert wheel.read("condgen/configs/gan.yaml") == (ROOT / "configs" / "gan.yaml").read_bytes()
    assert {f"condgen/configs/{name}.yaml" for name in CONFIGS} <= found
    assert {"condgen/py.typed", "condgen/demo/page.css", "condgen/evaluation/evaluators/MNIST.safetensors"} <= found
    assert "condgen/checkpoints/pretrained/mnist/generator.safetensors" in found
    assert {f"condgen/export/card/{name}.md" for name in ("template", "onnx", "pt2", "safetensors")} <= found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_installed_wheel_trains_samples_scores_and_exports_in_an_empty_folder(tmp_path):
    """pytest -m slow -n 0 tests/docs/test_packaging.py: two minutes."""
    (tmp_path / "built").mkdir()
    wheel, site, empty = build("build_wheel", tmp_path / "built"), tmp_path / "site", tmp_path / "empty"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True)
    empty.mkdir()
    for command in (
        "fit --config gan --data.source sample --trainer.max_epochs 1 --trainer.limit_train_batches 5",
        "fit --ckpt_path last --trainer.max_epochs 2",
        "predict --data.labels 2026 --predictions.walk 3",
        "test",
        "plot",
        "compare lightning_logs/version_0 --samples samples.png",
        "export --format safetensors",
    ):
        program = [sys.executable, "-m", "condgen", *command.split()]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        done = subprocess.run(program, cwd=empty, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    where = [sys.executable, "-c", "import condgen; print(condgen.__file__)"]
    found = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(site))
    assert (empty / "lightning_logs" / "version_0" / "scores.json").is_file()


def test_source_distribution_contains_tests_docs_and_repository_files(tmp_path):
    with tarfile.open(build("build_sdist", tmp_path)) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "tests/conftest.py",
        "tests/cli/wrong_command_lines.yaml",
        "tests/benchmarks/__main__.py",
        "configs/gan.yaml",
        "docs/family.md",
        ".github/workflows/ci.yml",
        ".pre-commit-config.yaml",
        "CITATION.cff",
        "CONTRIBUTING.md",
    ):
        assert name in found


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"fast"}))
def test_constructor_defaults_are_those_of_the_config(name):
    model = CONFIGS[name]["model"]
    parameters = inspect.signature(getattr(condgen.generators, model["class_path"])).parameters
    for setting, value in model["init_args"].items():
        default = parameters[setting].default
        assert (list(default) if isinstance(default, tuple) else default) == value, setting


def printed_config(arguments: list[str], capsys) -> dict:
    assert main(["fit", *arguments, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["gan", "gan.yaml", "configs/gan.yaml"])
def test_config_flag_finds_the_installed_config(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = printed_config(["--config", name], capsys)
    assert config["trainer"]["max_steps"] == CONFIGS["gan"]["trainer"]["max_steps"]


def test_config_flag_prefers_an_existing_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gan").write_text("trainer: {max_steps: 7}\n")
    assert printed_config(["--config", "gan"], capsys)["trainer"]["max_steps"] == 7


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"fast"}))
def test_fit_without_config_uses_the_config_of_the_model(name, capsys):
    family = CONFIGS[name]["model"]["class_path"]
    assert printed_config(["--model", family], capsys) == printed_config(["--config", name], capsys)


def test_fit_without_config_prints_the_config_it_uses(fit_args, tmp_path, capsys):
    assert main([*fit_args, "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert str(Path("configs", "base.yaml")) in capsys.readouterr().out


def test_model_flag_keeps_no_hyperparameters_of_the_configs_model(capsys):
    config = printed_config(["--config", "base", "--model", "GAN"], capsys)
    assert config["model"]["init_args"]["lr"] == CONFIGS["gan"]["model"]["init_args"]["lr"]
    assert config["trainer"]["max_epochs"] == CONFIGS["base"]["trainer"]["max_epochs"]
