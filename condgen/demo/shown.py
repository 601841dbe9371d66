"""Which runs the page shows. A request means one of them by its name, and nothing else on the disk."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from condgen.checkpoints import data_of, load_generator, read_checkpoint
from condgen.data import LabelledImages
from condgen.errors import UsageError, check_number
from condgen.evaluation.report import read_scores
from condgen.generators import ConditionalGenerator
from condgen.runs import RUNS, find_checkpoint, run_of, runs_with_a_checkpoint

STEPS, GUIDANCE = 100, 20  # at most


class Run(NamedTuple):
    """A trained generator that can be asked for."""

    name: str
    checkpoint: Path
    family: str
    data: LabelledImages
    settings: dict[str, Any]  # of the family, as it was trained
    steps: int  # of its training

    @property
    def folder(self) -> Path:
        """The run directory.

        Raises:
            UsageError: the checkpoint lies in none.
        """
        folder = run_of(self.checkpoint)
        if folder is None:
            raise UsageError(f"{self.name} lies in no run directory, so there is no more of it than it draws.")
        return folder

    @property
    def scores(self) -> dict[str, Any]:
        """The content of the ``scores.json`` of this very checkpoint.

        Raises:
            UsageError: it has not been scored; says how it is.
        """
        scores = read_scores(self.folder)
        of = scores.get("checkpoint") or {}
        if (Path(str(of.get("path"))).name, of.get("steps")) != (self.checkpoint.name, self.steps):
            raise UsageError(
                f"{self.folder}/scores.json is of another checkpoint: `condgen test --ckpt_path {self.checkpoint}` "
                "scores this one."
            )
        return scores

    def generator(self, guidance: str | float | None = "", steps: str | float | None = "") -> ConditionalGenerator:
        """The generator, loaded once; with other settings where the family has them, nothing for those of its training.

        Raises:
            UsageError: a setting is out of bounds, or the checkpoint is not there any more.
        """
        wanted: dict[str, float] = {}
        if "guidance" in self.settings and (number := _number("guidance", guidance)) is not None:
            check_number("guidance", number, at_least=0, at_most=GUIDANCE)
            wanted["guidance"] = number
        if "sampling_steps" in self.settings and (number := _number("sampling steps", steps)) is not None:
            wanted["sampling_steps"] = whole("sampling steps", number, 1, STEPS)
        written = self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else 0
        return _load(self.checkpoint, written, **wanted)


def _number(name: str, typed: str | float | None) -> float | None:
    """What was typed as a number, None for nothing."""
    try:
        return None if typed in ("", None) else float(typed)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is {typed!r:.40}: give a number, or nothing for that of the training.") from error


@lru_cache(maxsize=16)
def _load(checkpoint: Path, written: int, **settings: float) -> ConditionalGenerator:
    """See :func:`load_generator`; a checkpoint that is written anew is loaded anew."""
    return load_generator(checkpoint, **settings)


def whole(name: str, value: float, at_least: int, at_most: int) -> int:
    """A whole number that a request gives, which browsers send as a float.

    Raises:
        UsageError: it is none, or out of bounds.
    """
    check_number(name, value, at_least=at_least, at_most=at_most)
    if value != int(value):
        raise UsageError(f"{name} is {value}: give a whole number.")
    return int(value)


def find_runs(paths: Sequence[str], root: Path) -> dict[str, Run]:
    """The runs to show by their names, in the order of ``paths``; without, all under ``root``, the newest first.

    Raises:
        UsageError: there are none, or what is given is none.
    """
    given: Sequence[str | Path] = paths or runs_with_a_checkpoint(root)
    checkpoints = [_checkpoint(path, root) for path in dict.fromkeys(given)]
    names = _names(checkpoints)
    found: dict[str, Run] = {}
    data: dict[tuple[Any, ...], LabelledImages] = {}  # runs on the same images share them
    for checkpoint in checkpoints:
        try:
            content = read_checkpoint(checkpoint)
            images = data_of(content, checkpoint)
        except UsageError as error:
            if paths:
                raise
            print(f"Left out: {error}", file=sys.stderr)
            continue
        same = (images.full_name, images.root, images.source)
        name = names[checkpoint]
        found[name] = Run(
            name,
            checkpoint,
            content["condgen"]["model"].rpartition(".")[2],
            data.setdefault(same, images),
            content["hyper_parameters"],
            content["global_step"],
        )
    if not found:
        raise UsageError(
            f"No run under {root / RUNS} has a checkpoint: train one with `condgen fit --config configs/base.yaml`, "
            "or give run directories."
        )
    return found


def _checkpoint(path: str | Path, root: Path) -> Path:
    try:
        return find_checkpoint(path, root)
    except UsageError as error:
        raise UsageError(
            f"There is no run or checkpoint {path}: give run directories or checkpoint files, or nothing for all runs."
        ) from error


def _names(checkpoints: Sequence[Path]) -> dict[Path, str]:
    """The run's name, with the file's where it is not the last checkpoint; the whole path where two are the same."""
    names: dict[Path, str] = {}
    for path in checkpoints:
        run, file = run_of(path.resolve()), path.name
        names[path] = file if run is None else run.name if file == "last.ckpt" else f"{run.name}/{file}"
    number = Counter(names.values())
    return {path: name if number[name] == 1 else str(path) for path, name in names.items()}


def chosen(runs: dict[str, Run], name: str) -> Run:
    """The run that a request means.

    Raises:
        UsageError: the page shows none of this name.
    """
    if not isinstance(name, str) or name not in runs:
        raise UsageError(f"There is no run {name!r:.60} here, but {', '.join(runs):.400}.")
    return runs[name]
