"""Every command line of ``wrong_command_lines.yaml`` is rejected with an error that names the option.

Every folder of ``wrong_picture_folders.yaml`` is rejected with an error that names the file and the way out.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.idx_files import write_idx
from helpers.processes import condgen_process, python_process
from PIL import Image

from condgen.cli.main import main

WRONG = yaml.safe_load((Path(__file__).parent / "wrong_command_lines.yaml").read_text())
WRONG_FOLDERS = yaml.safe_load((Path(__file__).parent / "wrong_picture_folders.yaml").read_text(encoding="utf-8"))
DEFAULT_RUN = "fit --data ImageFolder --data.root pets --data.image_size 16"


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


def picture(seed: int, side: int = 8) -> Image.Image:
    """A picture of random colors."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The files that each case of ``wrong_picture_folders.yaml`` starts with. Its head lists them."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(36):
        label, part = ("cat", "dog")[seed % 2], "pets" if seed < 24 else ("split/train", "split/test")[seed // 30]
        (folder / part / label).mkdir(parents=True, exist_ok=True)
        picture(seed).save(folder / part / label / f"{seed % 24 // 2 if seed < 24 else seed % 6 // 2}.png")
    shutil.make_archive(str(folder / "pets"), "zip", folder, "pets")
    odd = folder / "odd"
    odd.mkdir()
    for name, start in {
        "notes.txt": b"A file with some words",
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "film.mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomavc1",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "page.pdf": b"%PDF-1.7",
    }.items():
        (odd / name).write_bytes(start)
    picture(0).save(odd / "drawing.eps")
    picture(0, 64).save(odd / "whole.jpg")
    (odd / "cut.jpg").write_bytes((odd / "whole.jpg").read_bytes()[:-1000])
    Image.new("F", (8, 8)).save(odd / "floats.tiff")
    Image.new("1", (9500, 9500)).save(odd / "large.png")
    Image.new("1", (20_000, 20_000)).save(odd / "bomb.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = ["--data.root", "pets", "--data.image_size", "16", "--data.batch_size", "16"]
        root = str(tmp_path_factory.mktemp("run"))
        arguments = ["fit", "--data", "ImageFolder", *settings, "--trainer.default_root_dir", root]
        assert main([*arguments, "--trainer.max_epochs", "1"]) == 0
    (folder / "run").symlink_to(f"{root}/lightning_logs/version_0")
    (folder / "pets" / ".condgen").rename(odd / "cache")
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
    assert_rejected(arguments, case["names"], capsys)
    assert content(folder) == before


def assert_rejected(arguments: list[str], names: list[str], capsys) -> None:
    capsys.readouterr()
    code = main(arguments)
    output = capsys.readouterr()
    assert code in (1, 2), output
    assert len(output.err.strip().splitlines()) in ((1, 2, 3) if arguments else (0,)), output.err
    assert "Traceback" not in output.err
    assert len(output.err) < 900
    assert [name for name in names if name not in output.err] == [], output.err


@pytest.mark.skipif(os.name == "nt", reason="the folders are made by shell commands")
@pytest.mark.parametrize("case", WRONG_FOLDERS, ids=lambda case: f"{case['make']} {case.get('run', '')}".strip())
def test_wrong_folder_of_pictures_is_rejected_and_the_error_names_the_way_out(
    case, pictures, tmp_path, monkeypatch, capsys
):
    ignores_case = (pictures / "PETS").exists()
    if {"without root": os.geteuid() == 0, "with case-sensitive names": ignores_case}.get(case.get("only")):
        pytest.skip(f"this folder is only wrong {case['only']}")
    shutil.copytree(pictures, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    subprocess.run(case["make"], shell=True, check=True, stdout=subprocess.DEVNULL)
    before = sorted(tmp_path.rglob("*")), content(tmp_path / "run")
    try:
        assert_rejected(shlex.split(case.get("run", DEFAULT_RUN)), case["names"], capsys)
        assert (sorted(tmp_path.rglob("*")), content(tmp_path / "run")) == before
    finally:
        subprocess.run("chmod -R u+rwX pets split odd", shell=True)


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


def test_at_least_120_wrong_command_lines_and_70_wrong_folders_are_tested():
    assert len({str(case) for case in WRONG}) >= 120
    assert len({str(case) for case in WRONG_FOLDERS}) >= 70
