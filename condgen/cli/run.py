"""Runs a command and converts exceptions to exit codes."""

import importlib
import logging
import threading
import warnings

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from condgen.cli.commands import COMMANDS, FUNCTION_COMMANDS, LIGHTNING_COMMANDS, load
from condgen.cli.functions import call
from condgen.cli.lightning_cli import CondgenCLI
from condgen.cli.output import raised_in, report_error
from condgen.cli.suggestions import did_you_mean
from condgen.errors import UsageError
from condgen.training.runtime import keep_freed_memory, use_deterministic_algorithms


def run(arguments: list[str]) -> int:
    """Runs a command line and returns its exit code."""
    _quieten()
    keep_freed_memory()
    use_deterministic_algorithms()
    try:
        _run(arguments)
    except BaseException as error:
        return report_error(error)
    return 0


def _run(words: list[str]) -> None:
    if any("\udc80" <= character <= "\udcff" for word in words for character in word):
        raise UsageError("An argument is not UTF-8: rename the file, or set the terminal to UTF-8.")
    command, *words = _import_modules(words) or [""]
    if command in FUNCTION_COMMANDS:
        call(command, words)
    elif command in LIGHTNING_COMMANDS:
        cli = CondgenCLI(command, words)
        try:
            load(command)(cli)
        except (ImportError, RuntimeError, ValueError, MisconfigurationException) as error:
            if raised_in(error).startswith("lightning."):  # so it is about one of the Trainer's settings
                raise cli.trainer_error(error) from error
            raise
    elif command.startswith("--print_completion"):
        CondgenCLI("", [command, *words])
    else:
        meant = did_you_mean(command, COMMANDS) or "."
        raise UsageError(f"There is no condgen {command}{meant} The commands are {', '.join(COMMANDS)}.")


def _import_modules(words: list[str]) -> list[str]:
    """Imports all modules given by ``--import MODULE`` and returns the remaining arguments."""
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
                f"--import {module}: {error}. Use python -m condgen to import a module from this folder."
            ) from error
    return rest


def _quieten() -> None:
    """Hides Lightning's hints for developers and shortens warnings to a single line."""
    threading.excepthook = _thread_failed
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Prints the traceback of a thread unless it failed to write a file.

    For example, TensorBoard uses a thread for writing. If the disk is full, we get the same error in the main thread.
    """
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
