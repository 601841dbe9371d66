"""Options for short runs, and functions that read their results or the error of a rejected command line."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from condgen.checkpoints.classes import imported_families
from condgen.cli.main import main
from condgen.generators import ConditionalGenerator

SMALL = {  # options that make slow families small
    "Diffusion": ["--model.unet_channels", "[8,16]"],
    "VAE": ["--model.flow_steps", "2"],
}
FIVE_SMALL_BATCHES = ["--data.batch_size", "16", "--trainer.limit_train_batches", "5"]
FAMILIES = [n for n, f in imported_families(ConditionalGenerator).items() if f.__module__.startswith("condgen.")]


def rows_of(run: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv."""
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def runs_in(folder: Path) -> list[str]:
    """The names of the run directories under `folder`."""
    return sorted(path.name for path in (folder / "lightning_logs").glob("*"))


def refused(arguments, capsys) -> str:
    """The error message of a command line that must fail with exactly one line on stderr."""
    capsys.readouterr()
    assert main(arguments) != 0
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    lines = output.err.strip().splitlines()
    assert len(lines) == 1, output.err
    return lines[0]


def resumed_and_uninterrupted(fit: list[str], folder: Path) -> tuple[Path, Path]:
    """Trains once with a stop after seven steps and a resume, and once without, and returns the two last checkpoints.

    Args:
        fit: Arguments of ``condgen fit``, with epochs that do not end after seven steps.
        folder: Folder for the runs.
    """
    fit = [*fit, "--trainer.limit_val_batches", "1", "--trainer.default_root_dir", str(folder)]
    logs = folder / "lightning_logs"
    assert main([*fit, "--trainer.max_steps", "7"]) == 0
    assert main([*fit, "--ckpt_path", str(logs / "version_0"), "--trainer.max_steps", "-1"]) == 0
    assert main(fit) == 0
    return logs / "version_0" / "checkpoints" / "last.ckpt", logs / "version_1" / "checkpoints" / "last.ckpt"


def same_weights(a: Path, b: Path) -> bool:
    """True if two checkpoints have bit-identical weights, batch-norm statistics and optimizer states."""
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
