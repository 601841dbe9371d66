"""Runs the commands and snippets of a Markdown page, in their order, in one folder. Trainings take a few batches."""

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from condgen.cli.main import main
from helpers.runs import SMALL

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"(?:^\*\*`([^`\n]+)`\*\*(?:, `([^`\n]+)`)?:?\n\n)?^```(\w+)\n(.*?)^```$", flags=re.S | re.M)
FEW = {
    "fit": shlex.split(
        "--trainer.limit_train_batches 3 --trainer.limit_val_batches 2 --trainer.log_every_n_steps 1"
        " --training_scores.every_n_epochs null --data.batch_size 16"  # the tests' dataset has 330 images
    ),
    "evaluator": ["--epochs", "1"],
}
ELSEWHERE = {
    ".ci/run": "it runs these tests",
    "condgen demo": "it serves until it is stopped; tests/demo/test_page.py runs it",
    "mkdocs": "tests/docs/test_docs_pages.py runs it",
    "pip": "`.ci/run` runs it",
    "pre-commit": "tests/docs/test_repository_files.py checks its hooks",
    "pytest": "it runs these tests",
    "python": "tests/docs/test_benchmarks.py runs a part of the benchmarks",
    "tensorboard": "it serves until it is stopped",
    "torchrun": "tests/promises/test_any_number_of_processes.py runs it on two machines",
}


def commands(block: str) -> list[list[str]]:
    """The commands of a shell block, each as a list of words."""
    lines = block.replace("\\\n", " ").splitlines()
    return [
        shlex.split(part, comments=True) for line in lines for part in line.split(" && ") if part.split("#")[0].strip()
    ]


class Block(NamedTuple):
    """A fenced code block, and the **`FILE`** or **`FILE`**, `Class.function` in the line above it, if any."""

    file: str
    place: str
    language: str
    text: str

    @property
    def is_quoted(self) -> bool:
        """Whether it quotes a file of the project. Other blocks are run, or written to the file they name."""
        return bool(self.file) and (ROOT / self.file).is_file()


def blocks(page: Path) -> list[Block]:
    """The fenced code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = [Block(*match.groups(default="")) for match in FENCED.finditer(text)]
    fences = len(re.findall("^ *```", text, flags=re.M))
    assert fences == 2 * len(found), f"{page.name} has a code block without a language, or an indented one"
    return found


def run(page: Path, mnist_root: Path, folder: Path) -> int:
    """Runs the commands and snippets of a page in a folder, and returns their number."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(mnist_root, folder / "data")
    for other in ("FashionMNIST", "KMNIST"):
        shutil.copytree(mnist_root / "MNIST", folder / "data" / other)
    ran = 0
    for block in blocks(page):
        if block.is_quoted or block.language == "text":
            continue
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, page.name, "exec"), {})
            ran += 1
        else:
            assert block.language == "bash"
            ran += sum(ran_here(command) for command in commands(block.text))
    return ran


def ran_here(command: list[str]) -> bool:
    """Runs a command, which must succeed. Returns False if another test runs it."""
    if command[:3] == ["python", "-m", "condgen"]:
        command = command[2:]
    program, *arguments = command
    if program in ELSEWHERE or " ".join(command[:2]) in ELSEWHERE:
        return False
    assert program == "condgen"
    if "ddp" in arguments:
        return False  # tests/promises/test_any_number_of_processes.py runs several processes
    few = [*FEW.get(arguments[0], [])]
    if arguments[0] == "fit" and "--ckpt_path" not in arguments:
        few += ["--trainer.max_epochs", "1"]
    if "configs/diffusion.yaml" in arguments:
        few += SMALL["Diffusion"]
    assert main([*arguments, *few]) == 0, arguments
    return True


def links(page: Path) -> list[str]:
    """The files that a page links to."""
    return re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
