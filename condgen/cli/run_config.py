"""The ``config.yaml`` in a run directory, which is written during training and read by other commands.

Since a run directory may come from someone else, we don't trust this file and only use numbers and simple words from a
fixed list of settings. In particular, we never use a class, a path, or the number of devices or machines. To use all of
the settings, pass ``--config RUN/config.yaml``.
"""

import contextlib
import pydoc
import re
import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from condgen.cli.options import as_list
from condgen.errors import UsageError
from condgen.files.atomic import atomic_write
from condgen.files.config import read_config

CLASS_SETTINGS = ("callbacks", "logger", "plugins", "profiler")  # Trainer settings that contain classes
INHERITED = {
    "trainer": {
        "accelerator", "accumulate_grad_batches", "benchmark", "check_val_every_n_epoch", "detect_anomaly",
        "deterministic", "enable_model_summary", "enable_progress_bar", "gradient_clip_algorithm", "gradient_clip_val",
        "inference_mode", "limit_test_batches", "limit_train_batches", "limit_val_batches", "log_every_n_steps",
        "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "num_sanity_val_steps", "precision",
        "reload_dataloaders_every_n_epochs", "val_check_interval",
    },
    "checkpoint": {"every_n_train_steps", "mode", "monitor"},
    "sample_grids": {"every_n_epochs", "sample_seed", "samples_per_label"},
    "training_scores": {"every_n_epochs"},
}  # fmt: skip


def settings_of_run(command: str, path: Path, given: Collection[str]) -> dict[str, Any]:
    """Returns the settings from a run's ``config.yaml`` that a command should use.

    Args:
        command: One of ``fit``, ``validate``, ``test`` and ``predict``.
        path: Path to the ``config.yaml``.
        given: The names of all options on the command line.

    Raises:
        UsageError: If the file is damaged, if a setting is neither a number nor a word, or if we resume a run that uses
            callbacks or other classes without setting them on the command line.
    """
    saved = {group: value for group, value in read_config(str(path)).items() if isinstance(value, dict)}
    trainer = saved.get("trainer", {})
    for name in CLASS_SETTINGS if command == "fit" else ():
        value, is_given = trainer.get(name), any(option.startswith(f"trainer.{name}") for option in given)
        if not isinstance(value, bool | None) and value != [] and not is_given:
            raise UsageError(
                f"{path} names classes in trainer.{name}, which are not imported automatically for safety: "
                f"use --config {path} to import them, or --trainer.{name} null to train without them."
            )
    found: dict[str, Any] = {}
    for group in INHERITED if command == "fit" else ("trainer",):
        found[group] = {name: saved[group][name] for name in INHERITED[group] & saved.get(group, {}).keys()}
        for name, value in found[group].items():
            is_duration = name == "max_time" and isinstance(value, dict) and all(map(_is_plain, value.values()))
            if not _is_plain(value) and not is_duration:
                raise UsageError(f"{path}: {group}.{name} is {reprlib.repr(value):.60}: use a number or a word.")
    if found["trainer"].get("accelerator") not in ("auto", "cpu", "cuda", "gpu", "mps"):
        found["trainer"].pop("accelerator", None)
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"[\w:-]{1,100}", value))  # no dots or slashes, so it can't be a class or a path
    return value is None or (isinstance(value, bool | int | float) and not abs(value) > 2**63)


class RunConfig(SaveConfigCallback):
    """Saves the settings of a training run to ``config.yaml``, using the actual value of ``data.source``."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Does nothing, since a run that fails before its first step should not overwrite an existing config."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = trainer.log_dir  # needs to be called on all ranks, as it is a collective operation
        if not trainer.is_global_zero:
            return
        config = self.config.clone()
        config["data"]["init_args"]["source"] = trainer.datamodule.hparams.source  # type: ignore[attr-defined]
        for name in CLASS_SETTINGS:
            for setting in as_list(config["trainer"][name]):
                _remove_defaults(setting)
        path = Path(str(run)) / "config.yaml"
        if path.is_file():  # keep the checkpoint that the run originally started from
            with contextlib.suppress(UsageError):
                config["ckpt_path"] = read_config(str(path)).get("ckpt_path")
        text = self.parser.dump(config, skip_unset=False)
        with atomic_write(path) as file:
            file.write(text.replace("Unable to serialize instance ", "").encode())  # added by jsonargparse


def _remove_defaults(setting: Any) -> None:
    """Removes the default arguments of a callback or logger. Some of them have types that jsonargparse can't save."""
    if isinstance(setting, Namespace) and "init_args" in setting:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(pydoc.locate(setting.class_path), fail_untyped=False)
        defaults = parser.get_defaults()
        for name, value in vars(setting.init_args).copy().items():
            if name in defaults and value == defaults[name]:
                del setting.init_args[name]
