"""The command line: one LightningCLI, its defaults, which checkpoint is meant, and what is said to the person."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, Namespace, set_parsing_settings
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, EarlyStopping, LearningRateFinder, ProgressBar, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from condgen.checkpoints.build import check_settings
from condgen.checkpoints.classes import imported_families, known_names, short_name
from condgen.checkpoints.find import RUNS, claim_run, find_checkpoint, is_last, run_of
from condgen.checkpoints.fit import check_weights
from condgen.checkpoints.read import read_checkpoint
from condgen.checkpoints.restore import restoring
from condgen.checkpoints.settings import check_same_images, settings
from condgen.checkpoints.write import AtomicCheckpointIO
from condgen.cli.commands import FUNCTIONS, call
from condgen.cli.options import Option, is_question, option_names, read_options
from condgen.cli.recipes import RECIPES, find_config, recipe_names, recipe_of
from condgen.cli.run_settings import CLASS_SETTINGS, check_classes, plain_settings, process_settings
from condgen.cli.suggestions import Names, did_you_mean, explain, settings_of
from condgen.data.datamodule import ImageDataModule
from condgen.errors import CollectiveError, UsageError, check_number, printable
from condgen.evaluation.report import about_checkpoint, report
from condgen.files.atomic import atomic_write
from condgen.files.config import read_config
from condgen.files.locks import directory_lock
from condgen.generators import ConditionalGenerator
from condgen.generators.base import FROM_DATA
from condgen.sampling.prediction_files import PredictionFiles
from condgen.training.checkpointing import RunCheckpoint, Stopped
from condgen.training.lightning_internals import CheckpointConnector
from condgen.training.loggers import run_loggers
from condgen.training.machine import keep_freed_memory, use_deterministic_gpu
from condgen.training.non_finite import TerminateOnNonFinite
from condgen.training.progress_bar import RunProgressBar
from condgen.training.sample_grids import SampleGrids
from condgen.training.scores import ScoredSamples, TrainingScores
from condgen.training.trainer import RunTrainer
from condgen.training.trainer_settings import (
    check_plugins,
    check_strategy,
    check_trainer,
    name_trainer_setting,
    raised_by_lightning,
)

SYSTEM_REFUSES = {  # what a user's disk, permissions, limits and paths can cause
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG,
    errno.ENFILE, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip
VERBS: dict[str, dict[str, type[Callback]]] = {  # and the callbacks whose settings are theirs
    "fit": {"checkpoint": RunCheckpoint, "sample_grids": SampleGrids, "training_scores": TrainingScores},
    "validate": {},
    "test": {"scores": ScoredSamples},
    "predict": {"predictions": PredictionFiles},
}
RUN_FOLDERS = ("checkpoints", "samples", "reconstructions")  # in a run directory, written by fit
DEFAULTS = {"model": "DNN", "data": "MNIST"}

Layer = tuple[str, dict[str, Any]]  # settings, and the file that they come from


def config_layer(path: str) -> Layer:
    """The settings of ``--config PATH``, also of a config that comes with condgen, and their file.

    Raises:
        UsageError: there is no such file, or it holds no settings.
    """
    found = find_config(path)
    if not found.exists() and (meant := did_you_mean(Path(path).stem, recipe_names())):
        raise UsageError(f"There is no --config {path}{meant}")
    try:
        return str(found), read_config(str(found))
    except UsageError as error:
        raise UsageError(f"--config {error}") from error


def settings_of_run(verb: str, path: Path, given: list[str]) -> dict[str, Any]:
    """The settings that a command inherits from a run's ``config.yaml``.

    Args:
        verb: the command.
        path: the file.
        given: the names of the options on the command line.
    """
    saved = read_config(str(path))
    if verb == "fit":
        check_classes(saved, path, given)
        several = process_settings(saved)
        if several and not any(f"trainer.{name}" in given for name in several):
            flags = " ".join(f"--trainer.{name} {value}" for name, value in several.items() if value is not None)
            _say(f"The run was trained by several processes, this command uses one: add {flags} to use as many.")
    return plain_settings(saved, path, verb)


class RunConfig(SaveConfigCallback):
    """Writes the settings of a training into its run directory, with the data that were really used."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: what is found wrong before the training begins is not to be kept."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = trainer.log_dir
        if not trainer.is_global_zero:
            return
        config = self.config.clone()
        config["data"]["init_args"]["source"] = trainer.datamodule.hparams.source  # type: ignore[attr-defined]
        for name in CLASS_SETTINGS:
            for setting in _as_list(config["trainer"][name]):
                _remove_defaults(setting)
        path = Path(str(run)) / "config.yaml"
        if path.is_file():  # a resumed run: keep the name of the checkpoint that it once started from
            with contextlib.suppress(UsageError):
                config["ckpt_path"] = read_config(str(path)).get("ckpt_path")
        text = self.parser.dump(config, skip_unset=False)
        with atomic_write(path) as file:
            file.write(text.replace("Unable to serialize instance ", "").encode())  # what jsonargparse makes of a name


def _class_of(class_path: str) -> type:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _remove_defaults(setting: Any) -> None:
    """Leaves out the default arguments of a callback, logger, ...: jsonargparse cannot write all types."""
    if isinstance(setting, Namespace) and "init_args" in setting:
        defaults = settings_of(_class_of(setting.class_path))
        for name, value in vars(setting.init_args).copy().items():
            if name in defaults and value == defaults[name]:
                del setting.init_args[name]


class Parser(LightningArgumentParser):
    """Raises instead of printing its usage, and takes no abbreviated flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"exit_on_error": False, "allow_abbrev": False} | kwargs)


class CondgenCLI(LightningCLI):
    """condgen's command line.

    With a checkpoint, its model, data and seed hold; everything else comes from ``--config``, or from the run's own
    ``config.yaml`` where none is given; a flag beats both.
    """

    trainer: RunTrainer

    def __init__(self, arguments: list[str]) -> None:
        self.checkpoint_path: Path | None = None
        self.checkpoint: dict[str, Any] | None = None
        self.verbs = arguments[:1] if arguments[0] in VERBS else list(VERBS)
        super().__init__(
            ConditionalGenerator,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfig,
            trainer_class=RunTrainer,
            trainer_defaults={
                "max_epochs": 5,
                "devices": 1,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "enable_model_summary": False,
            },
            seed_everything_default=1,
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=arguments,
        )

    # What can be said.

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """What each verb's method of the Trainer takes that is no setting; of the verb alone where one is given."""
        # weights_only would let checkpoints carry code; predictions go into files
        off = {"weights_only", "return_predictions"}
        return {verb: LightningCLI.subcommands()[verb] | off for verb in self.verbs}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults(DEFAULTS)
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def setup_parser(self, *args: Any) -> None:
        super().setup_parser(*args)
        for verb in self.verbs:
            for name, callback in VERBS[verb].items():
                self._subcommand_parsers[verb].add_lightning_class_args(callback, name)

    # What was said.

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        verb, *rest = args
        if is_question(args):
            self.config = parser.parse_args(args)  # a question: answered here
        if verb not in VERBS:
            verbs = (*VERBS, *FUNCTIONS)
            meant = did_you_mean(verb, verbs) or "."
            raise UsageError(f"There is no condgen {verb}{meant} Begin with one of {', '.join(verbs)}.")
        options = read_options(rest)
        layers = [config_layer(str(option.value)) for option in options if option.name == "config"]
        options = [option for option in options if option.name != "config"]
        given = _last_given(layers, options, "ckpt_path") or (None if verb == "fit" else "last")
        for group in DEFAULTS:  # the command line names these classes, so they may be imported, for a checkpoint too
            module = (_last_given(layers, options, group, f"{group}.class_path") or "").rpartition(".")[0]
            with contextlib.suppress(ImportError, ValueError):
                importlib.import_module(module)
        if given is not None:
            root = Path(_last_given(layers, options, "trainer.default_root_dir") or ".")
            self.checkpoint_path = find_checkpoint(given, root)
            self.checkpoint = read_checkpoint(self.checkpoint_path)
            run = run_of(self.checkpoint_path)
            if not layers and run is not None:
                given_names = [option.name for option in options]
                layers = [(str(run / "config.yaml"), settings_of_run(verb, run / "config.yaml", given_names))]
            found = settings(self.checkpoint, self.checkpoint_path)
            check_settings(self.checkpoint, self.checkpoint_path)
            for name in FROM_DATA:
                found["model"]["init_args"].pop(name, None)
            layers.append((str(self.checkpoint_path), {**found, "ckpt_path": str(self.checkpoint_path)}))
            options = [option for option in options if option.name != "ckpt_path"]
        family = short_name(_last_given(layers, options, "model", "model.class_path") or DEFAULTS["model"])
        if verb == "fit" and not layers and (recipe := recipe_of(family)):
            layers = [config_layer(str(recipe))]
        for _, content in layers:  # the settings of one family are not meant for another
            model = content.get("model")
            if isinstance(model, dict) and short_name(str(model.get("class_path", family))) != family:
                del content["model"]
        if family in known_names(ConditionalGenerator):  # type: ignore[type-abstract]
            self._subcommand_parsers[verb].set_defaults(model=family)
        self.recipes = [path for path, _ in layers if Path(path).parent == RECIPES]
        self._check_names(verb, layers, options)
        in_configs = [content.get("data") for path, content in layers if path != str(self.checkpoint_path)]
        self.given = {option.name for option in options}
        if any(isinstance(data, dict) and "root" in data.get("init_args", {}) for data in in_configs):
            self.given.add("data.root")
        below = [f"--config={yaml.safe_dump(content)}" for _, content in layers]
        with self._naming_the_checkpoint():
            self.config = parser.parse_args([verb, *below, *map(str, options)])
        seed = self.config[verb].seed_everything
        if not isinstance(seed, bool):
            check_number("seed_everything", seed, at_least=0, at_most=2**32 - 1)

    def _check_names(self, verb: str, layers: list[Layer], options: list[Option]) -> None:
        """Refuses settings and classes that there are not, before jsonargparse does."""
        known = {
            other: [f"{name}.{setting}" for name, callback in callbacks.items() for setting in settings_of(callback)]
            for other, callbacks in VERBS.items()
        }
        known[verb] = option_names(self._subcommand_parsers[verb])
        families: dict[str, dict[str, type]] = {
            "model": {**imported_families(ConditionalGenerator)},  # type: ignore[type-abstract]
            "data": {**imported_families(ImageDataModule)},
        }
        chosen = {
            group: short_name(_last_given(layers, options, group, f"{group}.class_path") or default)
            for group, default in DEFAULTS.items()
        }
        names = Names(verb, known, families, chosen)
        names.check_options(options)
        for path, content in layers:
            names.check_config(path, content)

    def _parse_ckpt_path(self) -> None:
        """Nothing: ``parse_arguments`` has put the checkpoint's settings below the flags, not above them."""

    # What is built.

    def instantiate_classes(self) -> None:
        with self._naming_the_checkpoint():
            try:
                super().instantiate_classes()
            except ValueError as error:  # jsonargparse's, if a callback, logger, ... of the Trainer raises
                class_path = re.search(r"Given value: \[?Namespace\(class_path='([^']+)'", str(error))
                if class_path is None or usage_error(error):
                    raise
                cause = first_cause(error)
                raise UsageError(f"{class_path[1]} cannot be created ({type(cause).__name__}: {cause}).") from error

    @contextlib.contextmanager
    def _naming_the_checkpoint(self) -> Iterator[None]:
        """Says of a wrong setting of the model or the data that it comes from the checkpoint, where it does."""
        try:
            yield
        except Exception as error:
            cause = usage_error(error)
            setting = re.match(r"((?:model|data)\.\w+) is ", str(cause or ""))
            if self.checkpoint_path and setting and setting[1] not in self.given:
                raise UsageError(f"{self.checkpoint_path}: {cause}") from error
            raise

    def before_instantiate_classes(self) -> None:
        self.root = Path(self._get(self.config, "trainer").default_root_dir or ".")

    def after_instantiate_classes(self) -> None:
        if self.checkpoint is not None and self.checkpoint_path is not None:
            root = self.datamodule.root
            is_outside = root.is_absolute() or ".." in root.parts
            self.datamodule.may_download = not is_outside or "data.root" in self.given
            check_same_images(self.checkpoint, self.checkpoint_path, self.datamodule)
            check_weights(self.checkpoint, self.checkpoint_path, self.model)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        self.trainer_settings = dict(config)
        check_trainer(self.trainer_settings)
        config.callbacks = _as_list(config.callbacks)
        monitors = [callback.monitor for callback in config.callbacks if isinstance(callback, EarlyStopping)]
        if self.subcommand == "fit" and {self._get(self.config_init, "checkpoint").monitor, *monitors} != {"val_loss"}:
            config.num_sanity_val_steps = config.num_sanity_val_steps or 1  # it shows what is logged
        self.logs_into_run = self.subcommand == "fit" and config.logger is not False
        if self.subcommand != "fit" or config.logger in (None, True):
            config.logger = False  # the loggers of the run directory are added when there is one
        config.plugins = [*check_plugins(_as_list(config.plugins)), AtomicCheckpointIO()]
        has_environment = any(isinstance(plugin, ClusterEnvironment) for plugin in config.plugins)
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect() and not has_environment:
            config.plugins.append(SLURMEnvironment(auto_requeue=False))
        has_bar = any(isinstance(callback, ProgressBar) for callback in config.callbacks)
        if config.enable_progress_bar is not False and not has_bar:
            config.callbacks.append(RunProgressBar())
        if self.subcommand == "fit":
            config.callbacks.append(TerminateOnNonFinite())
        else:
            config.enable_checkpointing = False
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ImportError, RuntimeError, ValueError, TypeError) as error:
            raise name_trainer_setting(error, self.trainer_settings) from error
        check_strategy(trainer.strategy, self.trainer_settings["strategy"])
        if self.trainer_settings["sync_batchnorm"] and trainer.strategy.root_device.type != "cuda":
            raise UsageError(
                "trainer.sync_batchnorm is true, but batch norm is only synchronised on GPUs: leave it out."
            )
        trainer._checkpoint_connector = CheckpointConnector(trainer)
        return trainer

    # What is run.

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs |= {"weights_only": True}
        if subcommand == "predict":
            kwargs["return_predictions"] = False
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except (MisconfigurationException, ImportError, RuntimeError, ValueError) as error:  # found while it runs
            if raised_by_lightning(error):
                raise name_trainer_setting(error, self.trainer_settings) from error
            raise

    def _checkpoint_run(self) -> Path | None:
        return run_of(self.checkpoint_path) if self.checkpoint_path else None

    def fit(self, **kwargs: Any) -> None:
        trial = bool(self.trainer.fast_dev_run)  # a few batches, of which nothing is kept
        finders = [cb for cb in self.trainer.callbacks if isinstance(cb, BatchSizeFinder | LearningRateFinder)]
        if finders and self.checkpoint_path:
            raise UsageError(
                f"trainer.callbacks has a {type(finders[0]).__name__}, which resets a training: leave it out to resume "
                f"{self.checkpoint_path}."
            )
        if trial and self.checkpoint_path:
            raise UsageError(f"trainer.fast_dev_run tries a new training, not {self.checkpoint_path}: leave one out.")
        resumed = self._checkpoint_run() if self.checkpoint_path and is_last(self.checkpoint_path) else None
        for name in RUN_FOLDERS:
            if resumed is not None and (resumed / name).is_symlink():  # which would be followed into another folder
                raise UsageError(f"{resumed / name} is a link: put a folder in its place to resume this run.")
        first_step, extra_rows = 0, []
        if self.checkpoint is not None:
            saved = self.checkpoint["condgen"]
            first_step = saved.get("first_open_step", self.checkpoint["global_step"])
            with restoring(self.checkpoint_path):
                extra_rows = [str(column) for column in saved.get("extra_rows", [])]
                epochs = int(self.checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
                seconds = float(self.checkpoint["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train", 0))
            if reached := self._reached(epochs, self.checkpoint["global_step"], seconds):
                done, flags = " and ".join(reached), " ".join(reached.values())
                raise UsageError(f"{self.checkpoint_path} has trained its {done}: for more, give {flags}.")
        first = self.trainer.is_global_zero
        if first:
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")
            self.datamodule.check_divisible(self.trainer.world_size)
        continued = (first_step, extra_rows) if resumed else (0, [])
        run = resumed
        if first and run is None:
            run = claim_run(self.root)
        self.trainer.run_directory = run
        with directory_lock(run, RUN_FOLDERS) if first and run else contextlib.nullcontext():
            if self.logs_into_run:
                self.trainer.loggers = [*run_loggers(run or self.root, *continued), *self.trainer.loggers]
            trained = sum(weights.numel() for weights in self.model.parameters() if weights.requires_grad)
            size = f"{type(self.model).__name__}, {trained:,} parameters"
            origin = f", resumed from {self.checkpoint_path}" if self.checkpoint_path else ""
            try:
                for recipe in self.recipes:
                    _say(f"Config: {recipe}, which comes with condgen")
                _say(f"Run: {run} ({size}){origin}")
                self.trainer.fit(**kwargs)
            except Stopped as stop:
                stop.resume_command = self._resume_command(run)
                raise
            except BaseException:
                begun = self.trainer.global_step not in (0, self.checkpoint["global_step"] if self.checkpoint else 0)
                if run and resumed is None and first and not begun and not _has_results(run):
                    _remove_run(run)  # nothing was trained: nothing is left behind
                raise
            if trial and run:
                _remove_run(run)
            _say("trainer.fast_dev_run: it works; nothing is kept." if trial else self._what_now(run))

    def _what_now(self, run: Path | None) -> str:
        cut = not self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch  # the last epoch, by a limit
        timer = self._timer()
        seconds = timer.time_elapsed("train") if timer else 0.0
        longer = " ".join(self._reached(self.trainer.current_epoch - cut, self.trainer.global_step, seconds).values())
        lines, path = [f"Run: {run}"], shlex.quote(str(run))
        if run and (run / "samples.gif").is_file():
            lines.append(f"  see the samples of every epoch    {run / 'samples'}/, {run / 'samples.gif'}")
        if run and (run / "metrics.csv").is_file():
            lines += [
                f"  see the curves                    condgen plot {path}",
                f"  compare them with other runs      tensorboard --logdir {shlex.quote(str(self.root / RUNS))}",
            ]
        lines += [
            f"  generate samples                  condgen predict --ckpt_path {path}",
            f"  score them                        condgen test --ckpt_path {path}",
            f"  train longer                      {self._resume_command(run)} {longer}".rstrip(),
        ]
        return "\n".join(lines)

    def _resume_command(self, run: Path | None) -> str:
        """The command that resumes this training; with its config, if that names classes."""
        has_classes = any(self.trainer_settings[name] not in (None, True, False, []) for name in CLASS_SETTINGS)
        config = f"--config {shlex.quote(str(run))}/config.yaml " if has_classes else ""
        return f"condgen fit {config}--ckpt_path {shlex.quote(str(run))}"

    def _timer(self) -> Timer | None:
        """The callback of ``trainer.max_time``."""
        return next((callback for callback in self.trainer.callbacks if type(callback) is Timer), None)

    def _reached(self, epochs: int, steps: int, seconds: float) -> dict[str, str]:
        """The limits that a training of this length has reached, each with the flag for twice as long a training."""
        limits = {"epochs": (epochs, self.trainer.max_epochs), "steps": (steps, self.trainer.max_steps)}
        found = {
            f"{done} {unit}": f"--trainer.max_{unit} {2 * done}"
            for unit, (done, most) in limits.items()
            if most not in (None, -1) and done >= most
        }
        timer = self._timer()
        if timer is not None and (remaining := timer.time_remaining()) is not None:
            limit = round(remaining + timer.time_elapsed())
            if seconds >= limit:
                hours, rest = divmod(2 * limit, 3600)
                flag = f"--trainer.max_time {hours // 24:02}:{hours % 24:02}:{rest // 60:02}:{rest % 60:02}"
                found[f"{timedelta(seconds=limit)} hours"] = flag
        return found

    def validate(self, **kwargs: Any) -> None:
        self.trainer.run_directory = self._checkpoint_run()
        self.trainer.validate(**kwargs)

    def test(self, **kwargs: Any) -> None:
        run = self.trainer.run_directory = self._checkpoint_run()
        self.trainer.test(**kwargs)
        drawn = next(callback for callback in self.trainer.callbacks if isinstance(callback, ScoredSamples))
        if self.trainer.is_global_zero and drawn.samples is not None:
            assert self.checkpoint is not None
            assert self.checkpoint_path is not None
            origin = about_checkpoint(self.checkpoint, self.checkpoint_path)
            progress = self.trainer.progress_bar_callback is not None
            report(self.model, self.datamodule, drawn.judge, drawn.samples, drawn.seconds, origin, run, progress)

    def predict(self, **kwargs: Any) -> None:
        self.trainer.run_directory = self._checkpoint_run()
        files = next(callback for callback in self.trainer.callbacks if isinstance(callback, PredictionFiles))
        if self.trainer.limit_predict_batches != 1.0 or self.trainer.fast_dev_run:
            raise UsageError("A part of a request cannot be drawn: leave out limit_predict_batches and fast_dev_run.")
        if self.trainer.run_directory is None and files.dirpath is None:
            raise UsageError(f"{self.checkpoint_path} lies in no run directory: say where to as --predictions.dirpath.")
        self.trainer.predict(**kwargs)
        _say(f"Samples: {files.folder} (grid.png shows them, manifest.csv lists them)")


def _has_results(run: Path) -> bool:
    """Whether a run directory has a checkpoint or a row of metrics: then it is never removed."""
    metrics = run / "metrics.csv"
    return any(run.glob("checkpoints/*.ckpt")) or (metrics.is_file() and metrics.stat().st_size > 0)


def _remove_run(run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    with contextlib.suppress(OSError):
        run.parent.rmdir()  # where no other run is in it


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _last_given(layers: list[Layer], options: list[Option], *names: str) -> str | None:
    """The value of a setting (or of one of several) before everything is parsed."""
    found = next((option.value for option in reversed(options) if option.name in names), None)
    for _, content in reversed(layers):
        for name in names:
            value: Any = content
            for key in name.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if found is None and not isinstance(value, dict | None):
                found = str(value)
    return None if found == "null" else found


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)


def first_cause(error: BaseException) -> BaseException:
    """The exception that others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def usage_error(error: BaseException | None) -> UsageError | None:
    """The mistake behind an exception: jsonargparse wraps what a class raises when it is built, or finds it itself."""
    while error is not None and not isinstance(error, UsageError | ArgumentError | argparse.ArgumentError):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, UsageError | None) else UsageError(explain(error))


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """No traceback if a thread cannot write, as TensorBoard's: the main thread gets the same error and reports it."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _quieten() -> None:
    """Hides Lightning's hints for developers, and prints warnings in one line."""
    threading.excepthook = _thread_failed
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")

    def is_for_users(record: logging.LogRecord) -> bool:
        return not re.search(
            r"Tip:|💡|available:|Restor(ing|ed)|Loaded model weights|litlogger|LOCAL_RANK", record.getMessage()
        )

    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_for_users)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)


def import_modules(words: list[str]) -> list[str]:
    """Imports the modules of ``--import MODULE``, and returns the other words of the command line.

    Raises:
        UsageError: a module cannot be imported.
    """
    rest, following = list[str](), iter(words)
    for word in following:
        if word != "--import" and not word.startswith("--import="):
            rest.append(word)
            continue
        module = word.partition("=")[2] or next(following, "")
        try:
            importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"--import {module}: {error}. Use python -m condgen for a module in this folder."
            ) from error
    return rest


def run(arguments: list[str]) -> int:
    """Runs a command line and returns its exit code: 0; 1 or 2 after a mistake; 130 or 143 when told to stop."""
    _quieten()
    keep_freed_memory()
    use_deterministic_gpu()
    set_parsing_settings(add_print_completion_argument=True)
    try:
        if any(not word.isprintable() and "\udc80" <= max(word) <= "\udcff" for word in arguments):
            raise UsageError("An argument is not UTF-8: rename the file, or set the terminal to UTF-8.")
        arguments = import_modules(arguments)
        if arguments[0] in FUNCTIONS:
            call(arguments[0], arguments[1:], Parser())
        else:
            CondgenCLI(arguments)
    except MisconfigurationException as error:
        return _fail(str(error), 1)
    except (ArgumentError, argparse.ArgumentError) as error:
        return _fail(str(usage_error(error)), 2)
    except Stopped as stop:
        _say(f"\nStopped. Checkpoint saved. Resume with: {stop.resume_command}")
        # a child process that ends with an error would make Lightning end the others
        return 0 if _is_child() and "TORCHELASTIC_RUN_ID" not in os.environ else 128 + stop.signum
    except Exception as error:
        if cause := usage_error(error):
            return 1 if isinstance(cause, CollectiveError) and _is_child() else _fail(str(cause), 1)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            return _fail(f"There is not enough memory ({reason}). A smaller --data.batch_size needs less.", 1)
        if re.search("DataLoader worker|Too many open files|_workers_status", str(error)):
            return _fail(f"The loader's workers failed ({error}). Fewer --data.num_workers need less.", 1)
        if "Expected more than 1 value per channel" in str(error):
            return _fail("Batch norm needs two images or more in each process's batch: raise --data.batch_size.", 1)
        if isinstance(error, OSError) and error.errno in SYSTEM_REFUSES:
            return _fail(f"{error.filename or 'A file'} cannot be used ({error.strerror}).", 1)
        if "embedded null byte" in str(error):
            return _fail("A path has a null byte (\\0) in it: give one without.", 1)
        raise
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except SIGTERMException:
        return _fail("terminated", 128 + signal.SIGTERM)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            return _fail("interrupted", 128 + signal.SIGINT)
        if end.code == 128 + signal.SIGTERM:
            return end.code if _is_child() else _fail("terminated", end.code)
        return end.code if isinstance(end.code, int) else 0 if end.code is None else _fail(str(end.code), 2)
    return 0


def _is_child() -> bool:
    """Whether this is another process of a distributed run than the first one of its machine."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _fail(message: str, code: int) -> int:
    print(f"condgen: {printable(' '.join(message.split())[:600])}", file=sys.stderr)
    return code
