"""Finds the runs to show on the page. Requests can only refer to these runs, never to arbitrary files."""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from condgen.checkpoints.build import data_of, load_generator
from condgen.checkpoints.find import PRETRAINED, RUNS, find_checkpoint, run_of, runs_with
from condgen.checkpoints.read import read_checkpoint
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.evaluation.scores_file import read_scores
from condgen.generators import ConditionalGenerator


class Run(NamedTuple):
    """A checkpoint that can be selected on the page.

    Args:
        name: The display name.
        checkpoint: Path to the checkpoint file.
        family: The generator's class name.
        data: The data module, configured as it was for training.
        hyperparameters: The generator's hyperparameters.
    """

    name: str
    checkpoint: Path
    family: str
    data: ImageDataModule
    hyperparameters: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run directory, or just the parent folder if the checkpoint is not in one."""
        return run_of(self.checkpoint) or self.checkpoint.parent

    @property
    def scores(self) -> dict[str, Any]:
        """The contents of ``scores.json``.

        Raises:
            UsageError: If there are no scores, or they were computed for a different checkpoint or dataset.
        """
        if self.checkpoint.suffix == ".safetensors":
            raise UsageError(f"{self.name} is an exported generator. Its scores are in the README.md of its folder.")
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
        """Loads the generator, or returns it from the cache.

        Args:
            **hyperparameters: Overrides for sampling. Any that are None or not supported by the family are ignored.

        Raises:
            UsageError: If the checkpoint no longer exists or a hyperparameter is invalid.
        """
        changed = {n: value for n, value in hyperparameters.items() if value is not None and n in self.hyperparameters}
        return _load(self.checkpoint, self._modified, **changed)

    @property
    def _modified(self) -> int:
        """When the checkpoint was last modified, in case it gets overwritten by training. 0 if it is missing."""
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else 0


@lru_cache(maxsize=16)
def _load(checkpoint: Path, modified: int, **hyperparameters: float) -> ConditionalGenerator:
    return load_generator(checkpoint, **hyperparameters)


@lru_cache(maxsize=256)
def _steps(checkpoint: Path, modified: int) -> int:
    return int(read_checkpoint(checkpoint)["global_step"])


def find_run(runs: dict[str, Run], name: str) -> Run:
    """Looks up a run by name and raises a UsageError if there is none."""
    if name not in runs:
        raise UsageError(f"There is no run {name!r:.60} here, but {', '.join(runs):.400}.")
    return runs[name]


def find_run_and_label(runs: dict[str, Run], name: str, label: str | None) -> tuple[Run, int]:
    """Looks up a run and one of its labels.

    Falls back to the first label if the run doesn't have the given one. This happens right after the user switches to a
    run that was trained on a different dataset.
    """
    run = find_run(runs, name)
    return run, run.data.classes.index(label) if label in run.data.classes else 0


def find_runs(paths: Sequence[str], root: Path) -> dict[str, Run]:
    """Finds the runs to show on the page.

    Args:
        paths: Run directories or checkpoint files. If empty, all runs with a checkpoint are used, newest first, or the
            generator that comes with condgen if there are none.
        root: The folder that contains ``lightning_logs``.

    Returns:
        The runs in the order they are listed on the page, keyed by name.

    Raises:
        UsageError: If no runs were found, or one of the given paths can't be loaded.
    """
    checkpoints = []
    for path in dict.fromkeys(paths) or runs_with("checkpoints/last.ckpt", root) or PRETRAINED:
        try:
            checkpoints.append(find_checkpoint(path, root))
        except UsageError as error:
            raise UsageError(
                f"There is no run or checkpoint {path}: give other paths, or no path to show all runs."
            ) from error
    runs: dict[str, Run] = {}
    shared: dict[tuple[str, Path, str], ImageDataModule] = {}  # so that images are only loaded once per dataset
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
    """Returns unique display names for the given checkpoints.

    By default, this is the name of the run directory, followed by the file name unless that is ``last.ckpt``. Falls
    back to the full path in case of duplicates.
    """
    pretrained = {path: name for name, path in PRETRAINED.items()}
    runs = [run_of(path.resolve()) for path in checkpoints]
    files = [pretrained.get(path, path.name) if path.name != "last.ckpt" else "" for path in checkpoints]
    names = [f"{run.name}/{file}".rstrip("/") if run else file for run, file in zip(runs, files, strict=True)]
    count = Counter(names)
    return [name if name and count[name] == 1 else str(path) for name, path in zip(names, checkpoints, strict=True)]
