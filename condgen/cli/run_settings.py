"""What condgen takes from the ``config.yaml`` of a run directory.

The file may come from anybody. So only plain settings from a fixed list are taken: nothing that names a class, a file,
a place to write, or a number of devices or machines. ``--config RUN/config.yaml`` takes all of it, because then the
user asked for that file.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from condgen.errors import UsageError

CLASS_SETTINGS = ("callbacks", "logger", "plugins", "profiler")  # of the Trainer
PROCESS_SETTINGS = ("devices", "num_nodes", "strategy")
ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
TRAINER_SETTINGS = {
    "accelerator", "accumulate_grad_batches", "benchmark", "check_val_every_n_epoch", "detect_anomaly",
    "deterministic", "enable_model_summary", "enable_progress_bar", "gradient_clip_algorithm", "gradient_clip_val",
    "inference_mode", "limit_test_batches", "limit_train_batches", "limit_val_batches", "log_every_n_steps",
    "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "num_sanity_val_steps", "precision",
    "reload_dataloaders_every_n_epochs", "val_check_interval",
}  # fmt: skip
FIT_SETTINGS = {
    "checkpoint": {"every_n_train_steps", "mode", "monitor"},
    "sample_grids": {"every_n_epochs", "sample_seed", "samples_per_label"},
    "training_scores": {"every_n_epochs"},
}


def plain_settings(saved: Mapping[str, Any], path: Path, verb: str) -> dict[str, Any]:
    """The settings of a run's ``config.yaml`` that its resume (``fit``) or its use (any other ``verb``) inherits.

    Args:
        saved: the content of the file.
        path: the file, for error messages.
        verb: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        UsageError: a setting that is inherited has a value that is not plain.
    """
    allowed = {"trainer": TRAINER_SETTINGS, **(FIT_SETTINGS if verb == "fit" else {})}
    found: dict[str, Any] = {}
    for group, names in allowed.items():
        settings = saved.get(group)
        if not isinstance(settings, dict):
            continue
        found[group] = {name: settings[name] for name in names & settings.keys()}
        for name, value in found[group].items():
            is_duration = name == "max_time" and isinstance(value, dict) and all(map(_is_plain, value.values()))
            if not _is_plain(value) and not is_duration:
                raise UsageError(f"{path}: {group}.{name} is {reprlib.repr(value):.60}: give a number or a word.")
    trainer = found.get("trainer", {})
    if trainer.get("accelerator") not in ACCELERATORS:
        trainer.pop("accelerator", None)
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"[\w:-]{1,100}", value))  # no dot and no slash: neither a class nor a path
    return value is None or (isinstance(value, bool | int | float) and not abs(value) > 2**63)


def check_classes(saved: Mapping[str, Any], path: Path, given: Collection[str]) -> None:
    """Refuses to resume a run without the callbacks, loggers, ... that its ``config.yaml`` names.

    Args:
        saved: the content of the file.
        path: the file.
        given: the names of the options on the command line.

    Raises:
        UsageError: a class is named in the file, and the command line does not say what to use.
    """
    trainer = saved.get("trainer")
    for name in CLASS_SETTINGS:
        value = trainer.get(name) if isinstance(trainer, dict) else None
        is_given = any(option.rstrip("+").startswith(f"trainer.{name}") for option in given)
        if not isinstance(value, bool | None) and value != [] and not is_given:
            raise UsageError(
                f"{path} names classes in trainer.{name}, and a run's own file is not trusted to import them: "
                f"give --config {path} to use them, or --trainer.{name} null to train without."
            )


def process_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """How the run was distributed, if over more than one process: not inherited, but worth telling the user."""
    trainer = saved.get("trainer")
    if not isinstance(trainer, dict):
        return {}
    found = {name: trainer.get(name) for name in PROCESS_SETTINGS}
    several = found["devices"] not in (None, 1, "1", "auto") or found["num_nodes"] not in (None, 1)
    return {name: value for name, value in found.items() if _is_plain(value)} if several else {}
