"""The runs that the page shows. A request can name only these runs, and no other file on the disk."""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from condgen.checkpoints.build import data_of, load_generator
from condgen.checkpoints.find import RUNS, find_checkpoint, run_of, runs_with
from condgen.checkpoints.read import read_checkpoint
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.evaluation.scores_file import read_scores
from condgen.generators import ConditionalGenerator


class Run(NamedTuple):
    """A checkpoint that the page shows.

    Args:
        name: Name of the run on the page.
        checkpoint: Path to the checkpoint.
        family: Name of the generator class.
        data: Data module with the settings from training.
        hyperparameters: Hyperparameters of the generator.
    """

    name: str
    checkpoint: Path
    family: str
    data: ImageDataModule
    hyperparameters: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Path to the run directory, or of the folder with the checkpoint if it is not in a run directory."""
        return run_of(self.checkpoint) or self.checkpoint.parent

    @property
    def scores(self) -> dict[str, Any]:
        """Content of ``scores.json``.

        Raises:
            UsageError: If the file is missing, or if it contains the scores of another checkpoint or other data.
        """
        scores = read_scores(self.folder)
        scored = scores.get("checkpoint") or {}
        basis = Path(str(scored.get("path"))).name, scored.get("steps"), scores["data"]
        if basis != (self.checkpoint.name, _steps(self.checkpoint, self._modified), self.data.full_name):
            raise UsageError(
                f"{self.folder}/scores.json belongs to another checkpoint or other data: "
                f"run `condgen test --ckpt_path {self.checkpoint}`."
            )
        return scores

    def generator(self, **hyperparameters: float | None) -> ConditionalGenerator:
        """Loads the generator.

        Args:
            **hyperparameters: Hyperparameters to change for sampling. A hyperparameter is ignored if it is None or if
                the family does not have it.

        Raises:
            UsageError: If the checkpoint does not exist any more, or if a hyperparameter has an invalid value.
        """
        changed = {n: value for n, value in hyperparameters.items() if value is not None and n in self.hyperparameters}
        return _load(self.checkpoint, self._modified, **changed)

    @property
    def _modified(self) -> int:
        """Modification time of the checkpoint, because training may overwrite it. 0 if the checkpoint is missing."""
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else 0


@lru_cache(maxsize=16)
def _load(checkpoint: Path, modified: int, **hyperparameters: float) -> ConditionalGenerator:
    return load_generator(checkpoint, **hyperparameters)


@lru_cache(maxsize=256)
def _steps(checkpoint: Path, modified: int) -> int:
    return int(read_checkpoint(checkpoint)["global_step"])


def find_run(runs: dict[str, Run], name: str) -> Run:
    """Returns the run with this name; raises UsageError if the page does not show it."""
    if name not in runs:
        raise UsageError(f"There is no run {name!r:.60} here, but {', '.join(runs):.400}.")
    return runs[name]


def find_runs(paths: Sequence[str], root: Path) -> dict[str, Run]:
    """Finds the runs that the page shows.

    Args:
        paths: Run directories and checkpoint files, in the order of the page. If it is empty, the page shows all runs
            under ``root`` that have a checkpoint, newest first.
        root: Folder that contains ``lightning_logs``.

    Returns:
        A mapping from the name of each run to the run.

    Raises:
        UsageError: If there is no run, or if one of ``paths`` cannot be shown.
    """
    checkpoints = []
    for path in dict.fromkeys(paths) or runs_with("checkpoints/last.ckpt", root):
        try:
            checkpoints.append(find_checkpoint(path, root))
        except UsageError as error:
            raise UsageError(
                f"There is no run or checkpoint {path}: give other paths, or no path to show all runs."
            ) from error
    runs: dict[str, Run] = {}
    shared: dict[tuple[str, Path, str], ImageDataModule] = {}  # runs with the same data share the images in memory
    for name, checkpoint in zip(_names(checkpoints), checkpoints, strict=True):
        try:
            content = read_checkpoint(checkpoint)
            data = data_of(content, checkpoint)
        except UsageError as error:
            if paths:
                raise
            print(f"Skipped: {error}", file=sys.stderr)
            continue
        data = shared.setdefault((data.full_name, data.root, data.source), data)
        family = content["condgen"]["model"].rpartition(".")[2]
        runs[name] = Run(name, checkpoint, family, data, content["hyper_parameters"])
    if not runs:
        raise UsageError(
            f"No run under {root / RUNS} has a checkpoint that can be shown: train one with "
            "`condgen fit --config configs/base.yaml`, or give run directories."
        )
    return runs


def _names(checkpoints: Sequence[Path]) -> list[str]:
    """Returns a name for each checkpoint.

    The name consists of the run directory and the name of the file, which is left out if it is ``last.ckpt``. If two
    checkpoints would have the same name, each is named by its path.
    """
    runs = [run_of(path.resolve()) for path in checkpoints]
    files = [path.name if path.name != "last.ckpt" else "" for path in checkpoints]
    names = [f"{run.name}/{file}".rstrip("/") if run else file for run, file in zip(runs, files, strict=True)]
    count = Counter(names)
    return [name if name and count[name] == 1 else str(path) for name, path in zip(names, checkpoints, strict=True)]
