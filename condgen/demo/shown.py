"""Which runs the page shows. A request means one of them by its name, and nothing else on the disk."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from condgen.checkpoints.build import load_generator
from condgen.checkpoints.find import RUNS, find_checkpoint, run_of, runs_with
from condgen.checkpoints.read import read_checkpoint
from condgen.checkpoints.settings import data_of
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError, check_number
from condgen.evaluation.report import read_scores
from condgen.generators import ConditionalGenerator

Setting = str | float | None  # as typed; "" and None mean the value of the training


class Run(NamedTuple):
    """A trained generator that can be asked for."""

    name: str
    checkpoint: Path
    family: str
    data: ImageDataModule
    settings: dict[str, Any]  # of the family, as it was trained

    @property
    def folder(self) -> Path:
        """The run directory; raises UsageError where the checkpoint lies in none."""
        folder = run_of(self.checkpoint)
        if folder is None:
            raise UsageError(f"{self.name} lies in no run directory, so there is no more of it than it draws.")
        return folder

    @property
    def scores(self) -> dict[str, Any]:
        """The content of ``scores.json``; raises UsageError, which says how to get it, where it is of another one."""
        scores = read_scores(self.folder)
        of = scores.get("checkpoint") or {}
        scored = Path(str(of.get("path"))).name, of.get("steps"), scores["data"]
        if scored != (self.checkpoint.name, _steps(self.checkpoint, self._written), self.data.full_name):
            raise UsageError(
                f"{self.folder}/scores.json is of another checkpoint or other data: "
                f"`condgen test --ckpt_path {self.checkpoint}` scores this one."
            )
        return scores

    def generator(self, guidance: Setting = "", steps: Setting = "") -> ConditionalGenerator:
        """The generator, kept once it is loaded, with other settings where the family has them and they are given.

        Raises:
            UsageError: a setting is no number or out of bounds, or the checkpoint is not there any more.
        """
        wanted: dict[str, float] = {}
        if "guidance" in self.settings and guidance not in ("", None):
            wanted["guidance"] = _number("guidance", guidance)
            check_number("guidance", wanted["guidance"], at_least=0, at_most=20)
        if "sampling_steps" in self.settings and steps not in ("", None):
            wanted["sampling_steps"] = whole("sampling steps", _number("sampling steps", steps), 1, 100)
        return _load(self.checkpoint, self._written, **wanted)

    @property
    def _written(self) -> int:
        """When the checkpoint was: a training that goes on writes it anew."""
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else 0


@lru_cache(maxsize=16)
def _load(checkpoint: Path, written: int, **settings: float) -> ConditionalGenerator:
    """See :func:`load_generator`; a checkpoint that is written anew is loaded anew."""
    return load_generator(checkpoint, **settings)


@lru_cache(maxsize=256)
def _steps(checkpoint: Path, written: int) -> int:
    """Of a checkpoint's training; a checkpoint that is written anew is read anew."""
    return int(read_checkpoint(checkpoint)["global_step"])


def _number(name: str, typed: str | float) -> float:
    try:
        return float(typed)
    except (OverflowError, ValueError) as error:
        raise UsageError(f"{name} is {typed!r:.40}: give a number, or nothing for that of the training.") from error


def whole(name: str, value: float, at_least: int, at_most: int) -> int:
    """A number of a request as an int; raises UsageError where it is not whole, or out of bounds."""
    check_number(name, value, at_least=at_least, at_most=at_most)
    if value != int(value):
        raise UsageError(f"{name} is {value}: give a whole number.")
    return int(value)


def chosen(runs: dict[str, Run], name: str) -> Run:
    """The run that a request means; raises UsageError where the page shows none of this name."""
    if not isinstance(name, str) or name not in runs:
        raise UsageError(f"There is no run {name!r:.60} here, but {', '.join(runs):.400}.")
    return runs[name]


def find_runs(paths: Sequence[str], root: Path) -> dict[str, Run]:
    """The runs to show by their names, in the order of ``paths``; without, all under ``root``, the newest first.

    Raises:
        UsageError: there are none, or what is given is none.
    """
    checkpoints = [find_checkpoint(run, root) for run in runs_with("checkpoints/last.ckpt", root)] if not paths else []
    for path in dict.fromkeys(paths):
        try:
            checkpoints.append(find_checkpoint(path, root))
        except UsageError as error:
            raise UsageError(
                f"There is no run or checkpoint {path}: give some that are, or none for all runs."
            ) from error
    if not checkpoints:
        raise UsageError(
            f"No run under {root / RUNS} has a checkpoint: train one with `condgen fit --config configs/base.yaml`, "
            "or give run directories."
        )
    found: dict[str, Run] = {}
    shared: dict[tuple[str, Path, str], ImageDataModule] = {}  # by runs on the same images
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
        found[name] = Run(name, checkpoint, family, data, content["hyper_parameters"])
    if not found:
        raise UsageError(f"No run under {root / RUNS} can be shown: train one, or give run directories.")
    return found


def _names(checkpoints: Sequence[Path]) -> list[str]:
    """The run's name, with the file's where it is not the last checkpoint; the whole path where two are the same."""
    runs = [run_of(path.resolve()) for path in checkpoints]
    files = [path.name if path.name != "last.ckpt" else "" for path in checkpoints]
    short = [f"{run.name}/{file}".rstrip("/") if run else file for run, file in zip(runs, files, strict=True)]
    number = Counter(short)
    return [name if name and number[name] == 1 else str(path) for name, path in zip(short, checkpoints, strict=True)]
