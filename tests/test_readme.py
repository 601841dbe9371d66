"""Every command and snippet of the README is run, in its order, in one folder; trainings take few batches."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from condgen.__main__ import main

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
FEW = {
    "fit": shlex.split(
        "--trainer.limit_train_batches 3 --trainer.limit_val_batches 2 --trainer.log_every_n_steps 1"
        " --training_scores.every_n_epochs null --data.batch_size 16"  # of a few hundred images
    ),
    "judge": ["--epochs", "1"],
}
ELSEWHERE = {
    "condgen demo": "it serves until it is stopped; tests/test_demo.py stops it",
    "pip": "`.ci/run` installs with them",
    "pytest": "this is it",
    "python": "tests/test_benchmarks.py runs a part of them",
    "tensorboard": "it serves until it is stopped",
    "torchrun": "tests/test_processes.py starts two machines",
}


def commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    return [
        shlex.split(part, comments=True) for line in lines for part in line.split(" && ") if part.split("#")[0].strip()
    ]


def test_every_command_and_snippet_works(mnist_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(mnist_root, tmp_path / "data")
    for other in ("FashionMNIST", "KMNIST"):
        shutil.copytree(mnist_root / "MNIST", tmp_path / "data" / other)
    ran = 0
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "README.md", "exec"), {})
            ran += 1
            continue
        for program, *arguments in commands(block):
            if program in ELSEWHERE or " ".join([program, *arguments[:1]]) in ELSEWHERE:
                continue
            assert program == "condgen"
            if "ddp" in arguments:
                continue  # tests/test_processes.py starts processes
            epochs = ["--trainer.max_epochs", "1"] if arguments[0] == "fit" and "--ckpt_path" not in arguments else []
            assert main([*arguments, *FEW.get(arguments[0], []), *epochs]) == 0, arguments
            ran += 1
    assert ran >= 8
    assert (tmp_path / "digits.png").is_file()


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()
