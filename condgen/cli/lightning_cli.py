"""The LightningCLI behind ``fit``, ``validate``, ``test`` and ``predict``.

Combines the settings from config files, checkpoints and flags to build the model, the data module and the Trainer.
"""

import contextlib
import importlib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, Namespace, add_instantiator, set_parsing_settings
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from condgen.checkpoints.build import check_same_images, check_settings, check_weights, data_of, settings
from condgen.checkpoints.classes import known_names, short_name
from condgen.checkpoints.find import find_checkpoint, run_of
from condgen.checkpoints.read import read_checkpoint
from condgen.checkpoints.write import AtomicCheckpointIO
from condgen.cli.options import (
    PARSER_SETTINGS,
    Option,
    as_list,
    is_question,
    last_value,
    plain_name,
    read_paths_and_options,
    settings_in,
)
from condgen.cli.recipes import RECIPES, read_recipe, recipe_of
from condgen.cli.run_config import RunConfig, settings_of_run
from condgen.cli.suggestions import explain
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError, check_number
from condgen.generators import ConditionalGenerator
from condgen.generators.base import FROM_DATA
from condgen.sampling.prediction_files import PredictionFiles
from condgen.training.checkpointing import LastAndBestCheckpoint
from condgen.training.lightning_internals import (
    ignore_other_checkpoints,
    name_checkpoint_in_errors,
    resume_between_epochs,
)
from condgen.training.non_finite import TerminateOnNonFinite
from condgen.training.progress_bar import RunProgressBar
from condgen.training.runtime import adapt_to_mps
from condgen.training.sample_grids import SampleGrids
from condgen.training.scores import ScoredSamples, TrainingScores
from condgen.training.trainer import RunTrainer
from condgen.training.trainer_settings import check_plugins, check_strategy, check_trainer

CALLBACKS: dict[str, tuple[str, type[Callback]]] = {  # settings group: (command, class)
    "checkpoint": ("fit", LastAndBestCheckpoint),
    "sample_grids": ("fit", SampleGrids),
    "training_scores": ("fit", TrainingScores),
    "scores": ("test", ScoredSamples),
    "predictions": ("predict", PredictionFiles),
}
T = TypeVar("T")
BASES: dict[str, type] = {"model": ConditionalGenerator, "data": ImageDataModule}
DEFAULTS = {"model": "DNN", "data": "MNIST"}
TRAINER_DEFAULTS = {
    "max_epochs": 5,
    "devices": 1,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}
NO_OPTIONS = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders", "return_predictions"}
NO_OPTIONS |= {"weights_only"}  # setting this to false would let a checkpoint run code


def _create(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    """Instantiates a callback, logger or profiler that is set in the Trainer's config.

    Any exception is converted to a UsageError because the arguments come from the user.
    """
    try:
        return class_type(*args, **kwargs)
    except UsageError:
        raise
    except Exception as error:
        name = f"{class_type.__module__}.{class_type.__qualname__}"
        raise UsageError(f"{name} cannot be created ({type(error).__name__}: {error}).") from error


class CondgenCLI(LightningCLI):
    """A LightningCLI for a single command that builds the ``model``, ``datamodule`` and ``trainer``.

    If there is a checkpoint, we use its model, data and seed. Everything else comes from ``--config`` or, if not given,
    from the run's ``config.yaml``. Flags always take precedence.

    Args:
        command: One of ``fit``, ``validate``, ``test`` and ``predict``, or "" to parse all of them, which is needed for
            printing a completion script.
        arguments: The arguments of the command.
    """

    trainer: RunTrainer

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command = command
        self.checkpoint_path: Path | None = None
        self.checkpoint: dict[str, Any] | None = None
        set_parsing_settings(add_print_completion_argument=not command)
        for kind in (Callback, Logger, Profiler):
            add_instantiator(_create, kind)
        super().__init__(
            ConditionalGenerator,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfig,
            trainer_class=RunTrainer,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=1,
            parser_kwargs=PARSER_SETTINGS | {"prog": f"condgen {command}".rstrip()},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            run=not command,  # building the parser of one command is faster than building all parsers
            args=arguments,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults(DEFAULTS)
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        if self.command:
            parser.add_method_arguments(Trainer, self.command, skip=NO_OPTIONS)
        for name, (command, callback) in CALLBACKS.items():
            if self.command in (command, ""):
                parser.add_lightning_class_args(callback, name)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if is_question(args):
            parser.parse_args(args)  # prints the answer and exits
        paths, flags = read_paths_and_options(args)
        if paths:
            raise UsageError(
                f"{paths[0]!r} is not an option: use --config FILE for a config, --ckpt_path PATH for a checkpoint."
            )
        files = [read_recipe(str(flag.value)) for flag in flags if flag.name == "config"]
        flags = [flag for flag in flags if flag.name != "config"]
        options = [*_settings_in(files), *flags]
        for group in BASES:  # it is safe to import the classes that the user asks for
            with contextlib.suppress(ImportError, ValueError):
                importlib.import_module((last_value(options, group) or "").rpartition(".")[0])
        path = last_value(options, "ckpt_path") or (None if self.command == "fit" else "last")
        if path is not None:
            root = Path(last_value(options, "trainer.default_root_dir") or ".")
            checkpoint_path = self.checkpoint_path = find_checkpoint(path, root)
            if not files and (run := run_of(checkpoint_path)):
                config = run / "config.yaml"
                files = [(str(config), settings_of_run(self.command, config, [flag.name for flag in flags]))]
            files.append((str(checkpoint_path), self._read_checkpoint(checkpoint_path)))
            flags = [flag for flag in flags if flag.name != "ckpt_path"]
        family = short_name(last_value([*_settings_in(files), *flags], "model") or DEFAULTS["model"])
        if self.command == "fit" and not files and (recipe := recipe_of(family)):
            files = [read_recipe(str(recipe))]
        for _, content in files:  # don't mix up the settings of different model families
            model = content.get("model")
            if isinstance(model, dict) and short_name(str(model.get("class_path", family))) != family:
                del content["model"]
        self.recipes = [path for path, _ in files if Path(path).parent == RECIPES]
        self.config = self._parse(parser, files, flags)
        if not isinstance(self.config.seed_everything, bool):
            check_number("seed_everything", self.config.seed_everything, at_least=0, at_most=2**32 - 1)

    def _read_checkpoint(self, path: Path) -> dict[str, Any]:
        """Reads and validates a checkpoint, and returns its settings as a config."""
        self.checkpoint = read_checkpoint(path)
        if self._is_exported and self.command != "predict":
            raise UsageError(
                f"{path} only contains what is needed for sampling. Use `condgen predict`, followed by `condgen score` "
                "for scores, or use a checkpoint that `condgen fit` wrote."
            )
        found = settings(self.checkpoint, path)
        check_settings(self.checkpoint, path)
        if "data" in found:
            data_of(self.checkpoint, path)
        for name in FROM_DATA:
            found["model"]["init_args"].pop(name, None)
        return {**found, "ckpt_path": str(path)}

    def _parse(
        self, parser: LightningArgumentParser, files: list[tuple[str, dict[str, Any]]], flags: list[Option]
    ) -> Namespace:
        """Parses the settings from the files first, followed by the flags.

        Raises:
            UsageError: If a name or value is wrong. This includes wrong values that jsonargparse would accept.
        """
        options = [*_settings_in(files), *flags]
        self.given = {plain_name(option.name) for option in options if option.source != f"{self.checkpoint_path}: "}
        chosen = {group: last_value(options, group) or default for group, default in DEFAULTS.items()}
        parser.set_defaults({group: c for group, c in chosen.items() if short_name(c) in known_names(BASES[group])})
        for option in options:
            name = plain_name(option.name)
            group, _, setting = name.partition(".")
            if name in ("trainer", *CALLBACKS) and not isinstance(option.value, str):
                problem = f"{option.value}: write its settings one by one, as in configs/base.yaml."
            elif "\0" in str(option.value):
                problem = f"{option.value}: use a value without a null byte."
            elif group == "model" and setting in FROM_DATA:
                problem = f"{option.value}, but the dataset determines it: leave it out."
            elif option.value == "null" and group in BASES and _default(parser, group, setting) is not None:
                problem = "null: use another value, or leave it out."
            else:
                continue
            raise UsageError(f"{option.source}{name} is {problem}")
        try:
            return parser.parse_args([*(f"--config={yaml.safe_dump(c)}" for _, c in files), *map(str, flags)])
        except ArgumentError as error:
            elsewhere = {group: command for group, (command, _) in CALLBACKS.items() if command != self.command}
            raise explain(error, options, parser, BASES, elsewhere) from error

    def before_instantiate_classes(self) -> None:
        self.root = Path(self.config.trainer.default_root_dir or ".")

    def after_instantiate_classes(self) -> None:
        if self.checkpoint is not None and self.checkpoint_path is not None:
            if self._is_exported:
                self.model.remove_training_parts()
            root = self.datamodule.root
            is_outside = root.is_absolute() or ".." in root.parts
            self.datamodule.may_download = not is_outside or "data.root" in self.given
            check_same_images(self.checkpoint, self.checkpoint_path, self.datamodule)
            check_weights(self.checkpoint, self.checkpoint_path, self.model)
            if self._is_exported:  # Lightning can't load it, since it has no state of the loops
                self.model.load_state_dict(self.checkpoint["state_dict"])

    @property
    def _is_exported(self) -> bool:
        """True if the checkpoint is a file from ``condgen export``, which only has what is needed for sampling."""
        return self.checkpoint is not None and "sampler_only" in self.checkpoint

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init.trainer
        self.trainer_settings = dict(config)
        check_trainer(self.trainer_settings)
        config.callbacks = as_list(config.callbacks)
        if self.command == "fit":
            monitors = [callback.monitor for callback in config.callbacks if isinstance(callback, EarlyStopping)]
            if {self.config.checkpoint.monitor, *monitors} != {"val_loss"}:
                config.num_sanity_val_steps = config.num_sanity_val_steps or 1  # to find the logged metrics
            config.callbacks.append(TerminateOnNonFinite())
        else:
            config.enable_checkpointing = False
        self.logs_into_run = self.command == "fit" and config.logger is not False
        if self.command != "fit" or config.logger in (None, True):
            config.logger = False  # fit adds the loggers once there is a run directory
        config.plugins = [*check_plugins(as_list(config.plugins)), AtomicCheckpointIO()]
        has_environment = any(isinstance(plugin, ClusterEnvironment) for plugin in config.plugins)
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect() and not has_environment:
            config.plugins.append(SLURMEnvironment(auto_requeue=False))
        has_bar = any(isinstance(callback, ProgressBar) for callback in config.callbacks)
        if config.enable_progress_bar is not False and not has_bar:
            config.callbacks.append(RunProgressBar())
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ImportError, RuntimeError, TypeError, ValueError, MisconfigurationException) as error:
            raise self.trainer_error(error) from error
        check_strategy(trainer.strategy, self.trainer_settings["strategy"])
        if self.trainer_settings["sync_batchnorm"] and trainer.strategy.root_device.type != "cuda":
            raise UsageError(
                "trainer.sync_batchnorm is true, but batch norm can only be synchronized on GPUs: leave it out."
            )
        if trainer.strategy.root_device.type == "mps":
            adapt_to_mps(self.model, self.trainer_settings["precision"])
        ignore_other_checkpoints(trainer)
        name_checkpoint_in_errors(trainer, self.checkpoint_path)
        resume_between_epochs(trainer)
        return trainer

    def trainer_error(self, error: Exception) -> UsageError:
        """Adds all Trainer settings that differ from the defaults to an error message from Lightning."""
        defaults = self.parser.get_defaults().trainer
        changed = {name: value for name, value in self.trainer_settings.items() if value != defaults[name]}
        named = " ".join(f"trainer.{name}={value}" for name, value in changed.items()) or "trainer"
        return UsageError(f"{named}: {error or type(error).__name__}")

    def trainer_arguments(self) -> dict[str, Any]:
        """Returns the arguments to pass to ``Trainer.fit``, ``validate``, ``test`` and ``predict``.

        Note that ``weights_only`` is always set, so that loading a checkpoint can't run any code.
        """
        path = None if self._is_exported else self.checkpoint_path
        return {"datamodule": self.datamodule, "ckpt_path": path, "weights_only": True}

    def run_directory(self) -> Path | None:
        """Returns the run directory of the checkpoint, or None if there isn't one."""
        return run_of(self.checkpoint_path) if self.checkpoint_path else None


def _default(parser: LightningArgumentParser, group: str, setting: str) -> Any:
    return parser.get_defaults()[group].init_args.get(setting)


def _settings_in(files: list[tuple[str, dict[str, Any]]]) -> list[Option]:
    return [option for path, content in files for option in settings_in(content, f"{path}: ")]
