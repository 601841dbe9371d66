"""The commands that are functions: their options are the function's parameters."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import reprlib
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from condgen.checkpoints.classes import imported_families, short_name
from condgen.cli.options import Option, is_question, option_names, read_options
from condgen.cli.suggestions import Names, explain
from condgen.data.datamodule import ImageDataModule
from condgen.demo.serve import demo
from condgen.errors import UsageError
from condgen.evaluation.compare import compare
from condgen.evaluation.evaluator import judge
from condgen.evaluation.plot import plot
from condgen.evaluation.report import score
from condgen.export.command import export
from condgen.files.config import read_config

FUNCTIONS = {function.__name__: function for function in (score, compare, judge, plot, demo, export)}


def call(verb: str, words: list[str], parser: LightningArgumentParser) -> None:
    """Runs the function of a command with what was given on the command line.

    Raises:
        UsageError: there is something wrong with it.
    """
    function = FUNCTIONS[verb]
    parameters = inspect.get_annotations(function, eval_str=True)
    parser.prog, parser.description = f"condgen {verb}", (inspect.getdoc(function) or "").partition("\n\n")[0]
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={"data"})
    if "data" in parameters:
        parser.add_subclass_arguments(ImageDataModule, "data", as_group=False, help="The data set.")
    if is_question(words):
        parser.parse_args(words)  # prints it, and ends
    first = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    paths, options = words[:first], read_options(words[first:])
    takes = {"path": "one path", "paths": "paths", "runs": "runs"}  # by the name of the first parameter
    wanted = takes.get(next(iter(parameters)), "no path")
    if not {"one path": len(paths) == 1, "paths": paths, "runs": True, "no path": not paths}[wanted]:
        raise UsageError(f"condgen {verb} takes {wanted} before its options: see condgen {verb} --help.")
    if "data" in parameters:
        parser.set_defaults({"data": _data_beside(paths, options)})
    _check_names(verb, parser, options)
    given = [json.dumps(paths)] if wanted in ("paths", "runs") else paths
    config = parser.parse_args([*given, *map(str, options)])
    function(**parser.instantiate_classes(config))


def _check_names(verb: str, parser: LightningArgumentParser, options: list[Option]) -> None:
    families, chosen = dict[str, dict[str, type]](), dict[str, str]()
    if default := parser.get_defaults().get("data"):
        given = next((str(option.value) for option in reversed(options) if option.name == "data"), None)
        families["data"] = {**imported_families(ImageDataModule)}
        chosen["data"] = short_name(given or default["class_path"])
    names = option_names(parser)
    if "model" in names:  # settings of whatever family the checkpoint is of, which knows them
        options = [option for option in options if not option.name.startswith("model.")]
    Names(verb, {verb: names}, families, chosen).check_options(options)


IMAGE_SETTINGS = ("root", "source", "split")  # the settings of condgen's data sets that determine their images


def _data_beside(paths: list[str], options: list[Option]) -> dict[str, Any]:
    """The data set of the run in whose directory the samples lie; MNIST if they lie in none, or if --data is given.

    The run's ``config.yaml`` may come from anybody: it can only choose one of condgen's own data sets and its images.

    Raises:
        UsageError: it names no such data set.
    """
    parents = Path(os.path.realpath(paths[0])).parents if paths else ()
    run = next((f for f in parents if os.path.isfile(f / "config.yaml") and os.path.isdir(f / "checkpoints")), None)
    if run is None or any(option.name in ("data", "data.class_path") for option in options):
        return {"class_path": "condgen.data.datasets.MNIST"}
    config = run / "config.yaml"
    try:
        return _own_data(read_config(str(config)).get("data"))
    except (UsageError, ArgumentError, argparse.ArgumentError) as error:
        reason = str(error) if isinstance(error, UsageError) else explain(error)
        named = reason if str(config) in reason else f"{config}: {reason}"
        raise UsageError(f"{named} Give the data set of these samples as --data.") from error


def _own_data(saved: Any) -> dict[str, Any]:
    """One of condgen's data sets with its images, from the ``data`` section of a run's ``config.yaml``."""
    class_path, settings = (saved.get("class_path"), saved.get("init_args")) if isinstance(saved, dict) else (None, {})
    kinds = [kind for kind in imported_families(ImageDataModule).values() if kind.__module__ == "condgen.data.datasets"]
    if class_path not in [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]:
        raise UsageError(f"data is {reprlib.repr(saved)}, which is none of condgen's data sets.")
    if not isinstance(settings, dict | None):
        raise UsageError(f"data.init_args is {reprlib.repr(settings)}, which are no settings.")
    chosen = {name: value for name, value in (settings or {}).items() if name in IMAGE_SETTINGS}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    data = {"class_path": class_path, "init_args": chosen}
    parser.parse_object({"data": data})  # checks the types
    return data
