"""Finds and creates run directories (``lightning_logs/version_N``) and finds the checkpoints in them."""

import re
import zipfile
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from condgen.errors import UsageError

RUNS = "lightning_logs"
PRETRAINED = {"mnist": Path(__file__).parent / "pretrained" / "mnist" / "generator.safetensors"}
"""The generators that come with condgen, by name."""


def _versions(root: Path) -> list[tuple[int, Path]]:
    """Returns the version number and path of all runs, newest first."""
    found = [(re.fullmatch(r"version_(\d+)", path.name), path) for path in (root / RUNS).glob("version_*")]
    return sorted(((int(match[1]), path) for match, path in found if match and path.is_dir()), reverse=True)


def runs_with(file: str, root: Path) -> list[Path]:
    """Returns all runs in ``root/lightning_logs`` that contain the given file, newest first."""
    return [run for _, run in _versions(root) if (run / file).is_file()]


def claim_run(root: Path) -> Path:
    """Creates the directory for a new run and returns its path.

    Creating a directory is atomic, so it's safe to call this from multiple processes.

    Raises:
        UsageError: If the directory can't be created.
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
    """Finds the checkpoint given by ``--ckpt_path``.

    Args:
        path: Path to a checkpoint, a run directory (to use its ``last.ckpt``), or a folder from ``condgen export``. Can
            also be ``last`` or ``best`` to use the newest run that has a ``last.ckpt`` or ``best.ckpt``, or ``mnist``
            to use the generator that comes with condgen, unless there is a run or checkpoint of that name.
        root: The folder that contains ``lightning_logs``.

    Raises:
        UsageError: If there is no such checkpoint.
    """
    if str(path) in ("last", "best"):
        file = f"checkpoints/{path}.ckpt"
        for run in runs_with(file, root):
            return run / file
        raise UsageError(
            f"No run under {root / RUNS} has a checkpoint {path}.ckpt: train one with "
            "`condgen fit --config configs/base.yaml`, or set --ckpt_path to mnist or to the path of a checkpoint."
        )
    checkpoint = _checkpoint_at(Path(path))
    if str(path) in PRETRAINED:
        if not checkpoint.is_file() or (checkpoint == Path(path) and not zipfile.is_zipfile(path)):
            return PRETRAINED[str(path)]  # there may be a folder of this name with data
        rank_zero_warn(f"Using {checkpoint} instead of the generator {path} that comes with condgen.")
    for exported in (checkpoint, *Path(path).glob("generator.*")):
        if exported.suffix in (".onnx", ".pt2") and (exported == checkpoint or not checkpoint.is_file()):
            raise UsageError(
                f"{exported} is an export for other programs. To load it with condgen, export its run again: "
                f"`condgen export --ckpt_path RUN --format safetensors --output {exported.parent}`."
            )
    if not checkpoint.is_file():
        raise UsageError(
            f"There is no checkpoint {checkpoint}: set --ckpt_path to last, best, mnist, a checkpoint file or a run "
            "directory."
        )
    return checkpoint


def _checkpoint_at(path: Path) -> Path:
    """Returns the path itself, or the checkpoint in it if it is an exported folder or a run directory."""
    in_folder = [path / "generator.safetensors", path / "checkpoints" / "last.ckpt"]
    return next(filter(Path.is_file, in_folder), in_folder[-1]) if path.is_dir() else path


def run_of(checkpoint: Path) -> Path | None:
    """Returns the run directory of a checkpoint, or None if it isn't part of a run.

    A run directory has a ``config.yaml`` and a ``checkpoints`` folder. If the path itself is not in a run directory, we
    try again after resolving symlinks.
    """
    for path in (checkpoint, checkpoint.absolute(), checkpoint.resolve()):
        run = path.parent.parent
        named = run.name not in ("", "..")  # missing in some relative paths
        if named and path.parent.name == "checkpoints" and (run / "config.yaml").is_file():
            return run
    return None


def output_directory(checkpoint: Path) -> Path | None:
    """Returns the default folder for output made from a checkpoint, or None if there is no such folder.

    This is the run directory, or the working directory for the generators that come with condgen.
    """
    return Path() if checkpoint in PRETRAINED.values() else run_of(checkpoint)


def is_exported(path: Path) -> bool:
    """Checks if this path belongs to a safetensors export, or is the name of a generator that comes with condgen."""
    try:
        return find_checkpoint(path, Path()).suffix == ".safetensors"
    except UsageError:
        return False


def is_last(checkpoint: Path) -> bool:
    """Checks if this is the ``last.ckpt`` of a run, which ``condgen fit`` resumes in the same directory."""
    return "last.ckpt" in (checkpoint.name, checkpoint.resolve().name)
