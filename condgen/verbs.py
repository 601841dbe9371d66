"""The commands that are functions: their options are the function's parameters."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from condgen.checkpoints import imported_class, imported_families
from condgen.data import LabelledImages
from condgen.demo.serve import demo
from condgen.errors import UsageError
from condgen.evaluation.judge import judge
from condgen.evaluation.report import compare, score
from condgen.export import export
from condgen.mistakes import Names, Option, is_question, option_names, read_config, read_options, short_name
from condgen.plot import plot

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
        parser.add_subclass_arguments(LabelledImages, "data", as_group=False, help="The data set.")
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
        families["data"] = {**imported_families(LabelledImages)}
        chosen["data"] = short_name(given or default["class_path"])
    names = option_names(parser)
    if "model" in names:  # settings of whatever family the checkpoint is of, which knows them
        options = [option for option in options if not option.name.startswith("model.")]
    Names(verb, {verb: names}, families, chosen).check_options(options)


def _data_beside(paths: list[str], options: list[Option]) -> dict[str, Any]:
    """The data of the run in whose directory a path is, where it is in one; MNIST else.

    Raises:
        UsageError: its class is not imported, and the options name no other.
    """
    parents = Path(paths[0]).resolve().parents if paths else ()
    config = next((folder / "config.yaml" for folder in parents if (folder / "config.yaml").is_file()), None)
    data = read_config(str(config)).get("data") if config else None
    if config is None or not isinstance(data, dict) or any(option.name == "data" for option in options):
        return {"class_path": "condgen.data.MNIST"}
    imported_class(str(data.get("class_path")), LabelledImages, config)
    return data
