"""The runs that the page shows. A request names one of them, and cannot name anything else on the disk."""

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
    """A checkpoint that the page shows, with the hyperparameters and the data of its training."""

    name: str
    checkpoint: Path
    family: str
    data: ImageDataModule
    hyperparameters: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run directory, or the folder of a checkpoint that lies in none."""
        return run_of(self.checkpoint) or self.checkpoint.parent

    @property
    def scores(self) -> dict[str, Any]:
        """The content of ``scores.json``; raises UsageError if it is missing or scores another checkpoint."""
        scores = read_scores(self.folder)
        scored = scores.get("checkpoint") or {}
        basis = Path(str(scored.get("path"))).name, scored.get("steps"), scores["data"]
        if basis != (self.checkpoint.name, _steps(self.checkpoint, self._modified), self.data.full_name):
            raise UsageError(
                f"{self.folder}/scores.json is of another checkpoint or other data: "
                f"`condgen test --ckpt_path {self.checkpoint}` scores this one."
            )
        return scores

    def generator(self, **hyperparameters: float | None) -> ConditionalGenerator:
        """Returns the generator, with other hyperparameters if its family has them and they are not None.

        Raises:
            UsageError: the checkpoint is not there any more, or a hyperparameter does not fit it.
        """
        changed = {n: value for n, value in hyperparameters.items() if value is not None and n in self.hyperparameters}
        return _load(self.checkpoint, self._modified, **changed)

    @property
    def _modified(self) -> int:
        """The time of the last change: a training that continues rewrites its checkpoint."""
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else 0


@lru_cache(maxsize=16)
def _load(checkpoint: Path, modified: int, **hyperparameters: float) -> ConditionalGenerator:
    return load_generator(checkpoint, **hyperparameters)


@lru_cache(maxsize=256)
def _steps(checkpoint: Path, modified: int) -> int:
    return int(read_checkpoint(checkpoint)["global_step"])


def find_run(runs: dict[str, Run], name: str) -> Run:
    """Returns the run of this name; raises UsageError if the page shows none."""
    if name not in runs:
        raise UsageError(f"There is no run {name!r:.60} here, but {', '.join(runs):.400}.")
    return runs[name]


def find_runs(paths: Sequence[str], root: Path) -> dict[str, Run]:
    """Returns the runs to show by their names.

    Args:
        paths: run directories and checkpoints, in the order of the page; if empty, all runs under ``root`` that have a
            checkpoint, newest first.
        root: the folder with ``lightning_logs``.

    Raises:
        UsageError: there is no run, or one of ``paths`` cannot be shown.
    """
    checkpoints = []
    for path in dict.fromkeys(paths) or runs_with("checkpoints/last.ckpt", root):
        try:
            checkpoints.append(find_checkpoint(path, root))
        except UsageError as error:
            raise UsageError(
                f"There is no run or checkpoint {path}: give other paths, or none for all runs."
            ) from error
    runs: dict[str, Run] = {}
    shared: dict[tuple[str, Path, str], ImageDataModule] = {}  # runs on the same data share its images in memory
    for name, checkpoint in zip(_names(checkpoints), checkpoints, strict=True):
        try:
            content = read_checkpoint(checkpoint)
            data = data_of(content, checkpoint)
        except UsageError as error:
            if paths:
                raise
            print(f"Left out: {error}", file=sys.stderr)
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
    """Returns the names of the runs, with the file's unless it is ``last.ckpt``; the path if that would be
    ambiguous."""
    runs = [run_of(path.resolve()) for path in checkpoints]
    files = [path.name if path.name != "last.ckpt" else "" for path in checkpoints]
    names = [f"{run.name}/{file}".rstrip("/") if run else file for run, file in zip(runs, files, strict=True)]
    count = Counter(names)
    return [name if name and count[name] == 1 else str(path) for name, path in zip(names, checkpoints, strict=True)]
