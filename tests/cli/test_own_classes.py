"""Model and data classes of the user work in every command if --import names their module."""

from __future__ import annotations

import importlib
import json
import os
import secrets

import pytest
from helpers.processes import condgen_process, finish
from helpers.runs import refused
from PIL import Image

from condgen.cli.main import main
from condgen.demo.runs import find_runs

OWN = '''
from condgen.data.datasets import MNIST
from condgen.generators import DNN

class Parity(MNIST):
    """MNIST with two classes."""
    classes = ("even", "odd")
    dataset = "MNIST"  # the folder of the files
    def convert(self, images, labels):
        return images, labels % 2

class Own(DNN):
    """A user's family."""
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module with a family and a dataset, which this process has not imported yet."""
    name = f"own_{secrets.token_hex(4)}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def run(module, fit_args, tmp_path):
    """A run of the classes of `module`, trained in another process."""
    classes = ["--model", f"{module}.Own", "--data", f"{module}.Parity", "--data.batch_size", "16"]
    fit = ["fit", *classes, *fit_args[1:], "--trainer.max_epochs", "1"]
    finish(condgen_process(fit, tmp_path, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"))
    return tmp_path / "lightning_logs" / "version_0"


SCORES = {
    "data": "Parity", "test_images": 70, "cost": {}, "generator": "Own", "samples": {"number": 4},
    "checkpoint": {"path": "last.ckpt", "steps": 5},
    "scores": {
        name: {"value": 0.5, "uncertainty": 0.1, "real": 0.9, "real_uncertainty": 0.1}
        for name in ("accuracy", "coverage", "diversity", "frechet_distance")
    },
}  # fmt: skip
COMMANDS = {
    "fit": "fit --trainer.max_epochs 2 --ckpt_path {run}",
    "validate": "validate --ckpt_path {run}",
    "predict": "predict --ckpt_path {run} --data.labels even,odd",
    "export": "export --ckpt_path {run} --format safetensors",
    "compare": "compare {run} --samples samples.png",
}


@pytest.mark.parametrize("subcommand", COMMANDS)
def test_command_needs_and_accepts_import_of_user_classes(subcommand, run, module, capsys):
    (run / "scores.json").write_text(json.dumps(SCORES))
    command = COMMANDS[subcommand].format(run=run).split()
    assert f"--import {module}" in refused(command, capsys)
    assert main([*command, "--import", module]) == 0
    if subcommand == "compare":
        assert Image.open(run.parent.parent / "samples.png").height > 100


def test_demo_lists_a_run_of_user_classes_after_their_import(run, module, capsys):
    assert f"--import {module}" in refused(["demo", str(run)], capsys)
    importlib.import_module(module)
    assert [found.family for found in find_runs([str(run)], run.parent).values()] == ["Own"]


def test_import_of_a_missing_module_is_rejected_in_one_line(capsys):
    assert "no_such_module" in refused(["predict", "--import", "no_such_module"], capsys)


def test_predict_accepts_labels_separated_by_commas(trained, tmp_path):
    run, folder = trained / "lightning_logs" / "version_0", tmp_path / "samples"
    request = ["--data.labels", "3,1", "--data.samples_per_label", "2", "--predictions.dirpath", str(folder)]
    assert main(["predict", "--ckpt_path", str(run), *request]) == 0
    labels = [line.split(",")[1] for line in (folder / "manifest.csv").read_text().splitlines()[1:]]
    assert labels == ["3", "3", "1", "1"]


@pytest.mark.parametrize("subcommand", ["predict", "validate"])
def test_enable_progress_bar_false_hides_all_progress_bars(subcommand, trained, tmp_path, capsys):
    run = trained / "lightning_logs" / "version_0"
    request = (
        ["--predictions.dirpath", str(tmp_path / "x"), "--predictions.walk", "50"] if subcommand == "predict" else []
    )
    assert main([subcommand, "--ckpt_path", str(run), "--trainer.enable_progress_bar", "false", *request]) == 0
    output = capsys.readouterr()
    assert "it/s" not in output.out + output.err
