"""Small runs: their settings, what they leave, and command lines that are refused."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from condgen.checkpoints.classes import imported_families
from condgen.cli.main import main
from condgen.generators import ConditionalGenerator

SMALL = {  # settings of families that train slowly
    "Diffusion": ["--model.channels", "[8,16]"],
    "VAE": ["--model.flow_steps", "2"],
}
FIVE_SMALL_BATCHES = ["--data.batch_size", "16", "--trainer.limit_train_batches", "5"]
FAMILIES = [n for n, f in imported_families(ConditionalGenerator).items() if f.__module__.startswith("condgen.")]


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def runs_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "lightning_logs").glob("*"))


def refused(arguments, capsys) -> str:
    """The one line with which a command line is refused."""
    capsys.readouterr()
    assert main(arguments) != 0
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    lines = output.err.strip().splitlines()
    assert len(lines) == 1, output.err
    return lines[0]


def same_weights(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same weights, batch-norm statistics and optimiser state, bit for bit."""
    left, right = (torch.load(path, weights_only=True) for path in (a, b))
    moments = [
        [state[k] for states in c["optimizer_states"] for state in states["state"].values() for k in sorted(state)]
        for c in (left, right)
    ]
    return (
        all(torch.equal(left["state_dict"][key], right["state_dict"][key]) for key in left["state_dict"])
        and len(moments[0]) == len(moments[1])
        and all(torch.equal(x, y) for x, y in zip(*moments, strict=True))
    )
