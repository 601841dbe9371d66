"""Finds and creates run directories (``lightning_logs/version_N``), and finds checkpoints in them."""

import re
from pathlib import Path

from condgen.errors import UsageError

RUNS = "lightning_logs"


def _versions(root: Path) -> list[tuple[int, Path]]:
    """Returns the number and path of each run directory under ``root/lightning_logs``, newest first."""
    found = [(re.fullmatch(r"version_(\d+)", path.name), path) for path in (root / RUNS).glob("version_*")]
    return sorted(((int(match[1]), path) for match, path in found if match and path.is_dir()), reverse=True)


def runs_with(file: str, root: Path) -> list[Path]:
    """Returns the run directories under ``root/lightning_logs`` that contain ``file``, newest first."""
    return [run for _, run in _versions(root) if (run / file).is_file()]


def claim_run(root: Path) -> Path:
    """Creates and returns the directory of a new run.

    Two processes never get the same directory, because creating a directory is atomic.

    Raises:
        UsageError: If the directory cannot be created.
    """
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
                f"{run} cannot be created ({error.strerror}): set --trainer.default_root_dir to another folder."
            ) from error


def find_checkpoint(path: str | Path, root: Path) -> Path:
    """Finds the checkpoint file that ``--ckpt_path`` refers to.

    Args:
        path: Path to a checkpoint, or of a run directory, which refers to its ``last.ckpt``. ``last`` and ``best``
            refer to ``last.ckpt`` and ``best.ckpt`` of the newest run that contains this file.
        root: Folder that contains ``lightning_logs``.

    Raises:
        UsageError: If the checkpoint does not exist.
    """
    if str(path) in ("last", "best"):
        file = f"checkpoints/{path}.ckpt"
        for run in runs_with(file, root):
            return run / file
        raise UsageError(
            f"No run under {root / RUNS} has a checkpoint {path}.ckpt: train one with "
            "`condgen fit --config configs/base.yaml`, or set --ckpt_path to the path of a checkpoint."
        )
    path = Path(path)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UsageError(
            f"There is no checkpoint {checkpoint}: set --ckpt_path to last, best, a checkpoint or a run directory."
        )
    return checkpoint


def run_of(checkpoint: Path) -> Path | None:
    """Returns the run directory of a checkpoint, or None if the checkpoint is not in one.

    A run directory contains ``config.yaml`` and the folder ``checkpoints`` with the checkpoint. Symlinks are resolved
    if the path itself is not in a run directory.
    """
    for path in (checkpoint, checkpoint.absolute(), checkpoint.resolve()):
        run = path.parent.parent
        named = run.name not in ("", "..")  # a relative path may omit the run's name
        if named and path.parent.name == "checkpoints" and (run / "config.yaml").is_file():
            return run
    return None


def is_last(checkpoint: Path) -> bool:
    """Returns whether a checkpoint is the ``last.ckpt`` of a run. ``condgen fit`` resumes it in its run directory."""
    return "last.ckpt" in (checkpoint.name, checkpoint.resolve().name)
