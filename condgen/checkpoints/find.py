"""Finds run directories, ``lightning_logs/version_N``, and the checkpoint that a path means; creates new ones."""

import re
from pathlib import Path

from condgen.errors import UsageError

RUNS = "lightning_logs"


def _versions(root: Path) -> list[tuple[int, Path]]:
    """Returns the runs under ``root/lightning_logs``, newest first, each with its number."""
    found = [(re.fullmatch(r"version_(\d+)", path.name), path) for path in (root / RUNS).glob("version_*")]
    return sorted(((int(match[1]), path) for match, path in found if match and path.is_dir()), reverse=True)


def runs_with(file: str, root: Path) -> list[Path]:
    """Returns the runs under ``root/lightning_logs`` that contain a file, newest first."""
    return [run for _, run in _versions(root) if (run / file).is_file()]


def claim_run(root: Path) -> Path:
    """Creates the directory of a new run, which no other process can claim at the same time."""
    number = next((number + 1 for number, _ in _versions(root)), 0)
    while True:
        run = root / RUNS / f"version_{number}"
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UsageError(
                f"{run} cannot be made ({error.strerror}): give a folder as --trainer.default_root_dir."
            ) from error


def find_checkpoint(path: str | Path, root: Path) -> Path:
    """Finds the checkpoint file that a user means.

    Args:
        path: a checkpoint file; a run directory, for its last checkpoint; or ``last`` or ``best``, for that checkpoint
            of the newest run that has one.
        root: the folder that contains ``lightning_logs``.

    Raises:
        UsageError: no such file exists.
    """
    if str(path) in ("last", "best"):
        file = f"checkpoints/{path}.ckpt"
        for run in runs_with(file, root):
            return run / file
        raise UsageError(
            f"No run under {root / RUNS} has a checkpoint {path}.ckpt: train one with "
            "`condgen fit --config configs/base.yaml`, or give a checkpoint's path as --ckpt_path."
        )
    path = Path(path)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UsageError(
            f"There is no checkpoint {checkpoint}: as --ckpt_path give last, best, a checkpoint or a run directory."
        )
    return checkpoint


def run_of(checkpoint: Path) -> Path | None:
    """Returns the run directory of a checkpoint in its ``checkpoints`` folder, or of a symlink to one. Otherwise
    None."""
    for path in (checkpoint, checkpoint.absolute(), checkpoint.resolve()):
        run = path.parent.parent
        named = run.name not in ("", "..")  # a relative path may omit the run's name
        if named and path.parent.name == "checkpoints" and (run / "config.yaml").is_file():
            return run
    return None


def is_last(checkpoint: Path) -> bool:
    """Returns whether a checkpoint is a run's ``last.ckpt``, which a training resumes in the same run directory."""
    return "last.ckpt" in (checkpoint.name, checkpoint.resolve().name)
