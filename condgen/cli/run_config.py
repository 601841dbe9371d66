"""The ``config.yaml`` of a run directory: written by a training, and partly inherited by the commands that use the run.

The file may come from anybody. So only plain settings from a fixed list are inherited: nothing that names a class, a
file, a place to write, or a number of devices or machines. ``--config RUN/config.yaml`` takes all of it, because then
the user asked for that file.
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

CLASS_SETTINGS = ("callbacks", "logger", "plugins", "profiler")  # of the Trainer
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
    """Returns the settings that a command inherits from a run's ``config.yaml``.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        path: the file.
        given: the names of the options on the command line.

    Raises:
        UsageError: the file is damaged, a setting that is inherited is not plain, or the run used callbacks, loggers,
            ... and the command line does not say which to use when it is resumed.
    """
    saved = {group: value for group, value in read_config(str(path)).items() if isinstance(value, dict)}
    trainer = saved.get("trainer", {})
    for name in CLASS_SETTINGS if command == "fit" else ():
        value, is_given = trainer.get(name), any(option.startswith(f"trainer.{name}") for option in given)
        if not isinstance(value, bool | None) and value != [] and not is_given:
            raise UsageError(
                f"{path} names classes in trainer.{name}, and a run's own file is not trusted to import them: "
                f"give --config {path} to use them, or --trainer.{name} null to train without."
            )
    found: dict[str, Any] = {}
    for group in INHERITED if command == "fit" else ("trainer",):
        found[group] = {name: saved[group][name] for name in INHERITED[group] & saved.get(group, {}).keys()}
        for name, value in found[group].items():
            is_duration = name == "max_time" and isinstance(value, dict) and all(map(_is_plain, value.values()))
            if not _is_plain(value) and not is_duration:
                raise UsageError(f"{path}: {group}.{name} is {reprlib.repr(value):.60}: give a number or a word.")
    if found["trainer"].get("accelerator") not in ("auto", "cpu", "cuda", "gpu", "mps"):
        found["trainer"].pop("accelerator", None)
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"[\w:-]{1,100}", value))  # no dot and no slash: neither a class nor a path
    return value is None or (isinstance(value, bool | int | float) and not abs(value) > 2**63)


class RunConfig(SaveConfigCallback):
    """Writes the settings of a training into its run directory, with the ``data.source`` that was really used."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: a training that is refused before its first step must not replace the run's config."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = trainer.log_dir  # on every rank, because it is a collective
        if not trainer.is_global_zero:
            return
        config = self.config.clone()
        config["data"]["init_args"]["source"] = trainer.datamodule.hparams.source  # type: ignore[attr-defined]
        for name in CLASS_SETTINGS:
            for setting in as_list(config["trainer"][name]):
                _remove_defaults(setting)
        path = Path(str(run)) / "config.yaml"
        if path.is_file():  # a resumed run: keep the name of the checkpoint that it once started from
            with contextlib.suppress(UsageError):
                config["ckpt_path"] = read_config(str(path)).get("ckpt_path")
        text = self.parser.dump(config, skip_unset=False)
        with atomic_write(path) as file:
            file.write(text.replace("Unable to serialize instance ", "").encode())  # jsonargparse's words before a name


def _remove_defaults(setting: Any) -> None:
    """Removes the default arguments of a callback, logger, ...: jsonargparse cannot write values of every type."""
    if isinstance(setting, Namespace) and "init_args" in setting:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(pydoc.locate(setting.class_path), fail_untyped=False)
        defaults = parser.get_defaults()
        for name, value in vars(setting.init_args).copy().items():
            if name in defaults and value == defaults[name]:
                del setting.init_args[name]
