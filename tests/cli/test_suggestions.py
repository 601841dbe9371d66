"""Every mistake of ``mistakes.yaml`` gets an answer that helps, and leaves nothing behind."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.idx_files import write_idx
from helpers.processes import condgen_process, python_process

from condgen.cli.main import main

MISTAKES = yaml.safe_load((Path(__file__).parent / "wrong_command_lines.yaml").read_text())


@pytest.fixture(scope="module")
def folder(mnist_root, trained, digits, tmp_path_factory):
    """What ``mistakes.yaml`` says of the folder in which its commands run."""
    folder = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(mnist_root, folder / "data")
    shutil.copytree(trained / "lightning_logs" / "version_0", folder / "run")
    shutil.copy(folder / "run" / "checkpoints" / "last.ckpt", folder / "bare.ckpt")
    for part in ("train", "test"):
        raw = folder / "data" / "EMNIST" / "raw"
        write_idx(raw / f"emnist-letters-{part}-images-idx3-ubyte", digits[0][:64])
        write_idx(raw / f"emnist-letters-{part}-labels-idx1-ubyte", np.arange(64, dtype=np.uint8) % 26 + 1)
    letters = ["--data", "EMNIST", "--data.split", "letters", "--data.root", str(folder / "data")]
    assert main(["fit", *letters, "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(folder)]) == 0
    (folder / "lightning_logs" / "version_0").rename(folder / "letters")
    (folder / "lightning_logs").rmdir()
    (folder / "file.txt").write_text("A file with some words: and [no settings\n")
    (folder / "broken.yaml").write_text("trainer: {max_epochs: 3\nmodel: [\n")
    (folder / "empty").mkdir()
    return folder


def content(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m['run']} {m.get('config', '')}".strip())
def test_a_mistake_is_answered(mistake, folder, tmp_path, monkeypatch, capsys):
    if mistake.get("where") == "without a GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(folder)
    arguments = shlex.split(mistake["run"])
    if "config" in mistake:
        (tmp_path / "config.yaml").write_text(mistake["config"])
        arguments += ["--config", str(tmp_path / "config.yaml")]
    before = content(folder)
    capsys.readouterr()
    code = main(arguments)
    output = capsys.readouterr()
    assert code in (1, 2), output
    lines = output.err.strip().splitlines()
    if arguments:
        assert 1 <= len(lines) <= 3, output.err
    assert "Traceback" not in output.err
    assert len(output.err) < 900
    for words in mistake["says"]:
        assert words in output.err
    assert content(folder) == before


def test_as_processes_too(folder):
    """All that a person sees on the screen is the answer and, before it, at most where data and run are."""
    before = content(folder)
    for process in (
        python_process(["condgen", "fit", "--checkpoint.monitor", "loss"], folder),
        condgen_process(["fit", "--trainer.devices", "two"], folder),
    ):
        output, _ = process.communicate(timeout=100)
        assert process.returncode in (1, 2)
        said = [line for line in output.splitlines() if line.strip() and not line.startswith(("Data: ", "Run: "))]
        assert len([line for line in said if "condgen: " in line]) == 1, output
        assert "Traceback" not in output
    assert content(folder) == before


def test_there_are_enough_of_them():
    assert len({str(mistake) for mistake in MISTAKES}) >= 120
