"""Every command line of ``wrong_command_lines.yaml`` is rejected with an error that names the option."""

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

WRONG = yaml.safe_load((Path(__file__).parent / "wrong_command_lines.yaml").read_text())


@pytest.fixture(scope="module")
def folder(mnist_root, trained, digits, tmp_path_factory):
    """The working directory of the command lines. The head of ``wrong_command_lines.yaml`` lists its content."""
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copytree(mnist_root, folder / "data")
    no_scores = shutil.ignore_patterns("scores.json")  # another test may have written it
    shutil.copytree(trained / "lightning_logs" / "version_0", folder / "run", ignore=no_scores)
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
    """The modification time of every file under `folder`."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case['run']} {case.get('config', '')}".strip())
def test_wrong_command_line_is_rejected_and_the_error_names_the_option(case, folder, tmp_path, monkeypatch, capsys):
    if case.get("only") == "without a GPU" and torch.cuda.is_available():
        pytest.skip("this command line is valid on a machine with a GPU")
    monkeypatch.chdir(folder)
    arguments = shlex.split(case["run"])
    if "config" in case:
        (tmp_path / "config.yaml").write_text(case["config"])
        arguments += ["--config", str(tmp_path / "config.yaml")]
    before = content(folder)
    capsys.readouterr()
    code = main(arguments)
    output = capsys.readouterr()
    assert code in (1, 2), output
    assert len(output.err.strip().splitlines()) in ((1, 2, 3) if arguments else (0,)), output.err
    assert "Traceback" not in output.err
    assert len(output.err) < 900
    assert [name for name in case["names"] if name not in output.err] == [], output.err
    assert content(folder) == before


def test_wrong_command_line_in_a_separate_process_prints_one_error_line(folder):
    before = content(folder)
    for process in (
        python_process(["condgen", "fit", "--checkpoint.monitor", "loss"], folder),
        condgen_process(["fit", "--trainer.devices", "two"], folder),
    ):
        output, _ = process.communicate(timeout=100)
        assert process.returncode in (1, 2)
        lines = [line for line in output.splitlines() if line.strip() and not line.startswith(("Data: ", "Run: "))]
        assert len([line for line in lines if "condgen: " in line]) == 1, output
        assert "Traceback" not in output
    assert content(folder) == before


def test_at_least_120_wrong_command_lines_are_tested():
    assert len({str(case) for case in WRONG}) >= 120
