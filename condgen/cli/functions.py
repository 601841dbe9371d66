"""Runs commands that are plain functions, using the function's parameters as the command's options."""

import inspect
import json
import os
import reprlib
from argparse import ArgumentError
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from condgen.checkpoints.classes import imported_families, known_names, short_name
from condgen.cli.commands import load
from condgen.cli.options import PARSER_SETTINGS, is_question, last_value, read_paths_and_options
from condgen.cli.suggestions import explain
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.files.config import read_config

OWN_DATA = "condgen.data."  # condgen's own datasets live here
MNIST = f"{OWN_DATA}datasets.MNIST"


def call(command: str, words: list[str]) -> None:
    """Parses the arguments of a command and calls its function. Raises a UsageError if an argument is invalid."""
    function = load(command)
    parameters = list(inspect.signature(function).parameters)
    description = (inspect.getdoc(function) or "").partition("\n\n")[0]
    parser = ArgumentParser(prog=f"condgen {command}", description=description, **PARSER_SETTINGS)
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={"data"})
    if "data" in parameters:
        parser.add_subclass_arguments(ImageDataModule, "data", as_group=False, help="The dataset.")
    if is_question(words):
        parser.parse_args(words)  # prints the answer and exits
    takes = {"path": "one path", "paths": "paths", "runs": "runs"}.get(parameters[0], "no path")
    paths, options = read_paths_and_options(words)
    if not {"one path": len(paths) == 1, "paths": paths, "runs": True, "no path": not paths}[takes]:
        named = ", ".join(f"--{name}" for name in parameters if name not in ("path", "paths", "runs"))
        got = " ".join(paths) or "none"
        raise UsageError(f"condgen {command} takes {takes}, but got {got}. Its options are {named}.")
    if "data" in parameters:
        data = last_value(options, "data")
        default = MNIST if data else _data_beside(paths)
        if data and short_name(data) in known_names(ImageDataModule):
            default = data
        parser.set_defaults({"data": default})
    given = [json.dumps(paths)] if takes in ("paths", "runs") else paths
    try:
        config = parser.parse_args([*given, *map(str, options)])
    except ArgumentError as error:
        bases = {"data": ImageDataModule} if "data" in parameters else {}
        raise explain(error, options, parser, bases, paths=given) from error
    function(**parser.instantiate(config))


def _data_beside(paths: list[str]) -> Any:
    """Returns the dataset of the run that the sample files belong to. Falls back to MNIST if there is no such run.

    We can't trust the ``config.yaml`` of a run, so it may only choose between condgen's own datasets and their images.
    """
    parents = Path(os.path.realpath(paths[0])).parents if paths else ()
    run = next((f for f in parents if os.path.isfile(f / "config.yaml") and os.path.isdir(f / "checkpoints")), None)
    if run is None:
        return MNIST
    try:
        saved = read_config(f"{run}/config.yaml").get("data")
        families = imported_families(ImageDataModule)
        own = {n: f"{f.__module__}.{n}" for n, f in families.items() if f.__module__.startswith(OWN_DATA)}
        settings = {"source"}.union(*(families[name].image_settings for name in own))
        named = saved if isinstance(saved, dict) else {}
        package, _, name = str(named.get("class_path")).rpartition(".")
        if package.split(".")[:2] != ["condgen", "data"] or name not in own:
            raise UsageError(f"data is {reprlib.repr(saved)}, which is not one of condgen's datasets.")
        chosen = {key: value for key, value in (named.get("init_args") or {}).items() if key in settings}
        data = {"class_path": own[name], "init_args": chosen}
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(ImageDataModule, "data")
        parser.parse_object({"data": data})  # checks the types
        return data
    except (ArgumentError, AttributeError, UsageError) as error:
        raise UsageError(f"{run}/config.yaml: {error} Use --data to give the dataset of these samples.") from error
