"""The options of a command line, before they are parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from jsonargparse import ArgumentParser

from condgen.errors import UsageError


def is_question(words: Iterable[str]) -> bool:
    """Whether a command line asks for help or for a completion script, which jsonargparse answers."""
    return any(re.fullmatch(r"-h|--help|--print_completion.*|--[\w.]+\.help.*", word) for word in words)


def option_names(parser: ArgumentParser) -> list[str]:
    """The options of a parser, without their dashes, in the order of its help."""
    return [name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")]


class Option(NamedTuple):
    """An option as it was given: its name without dashes, and its value."""

    name: str
    value: str | None

    def __str__(self) -> str:
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"


def read_options(words: Iterable[str]) -> list[Option]:
    """The options of a command line. With ``=`` they also hold for values that begin with a dash, as -1e-3.

    Raises:
        UsageError: a word belongs to no option, or an option has no value.
    """
    found: list[Option] = []
    for word in words:
        if word.startswith("--") or word == "-c":
            name, has_value, value = word.lstrip("-").partition("=")
            found.append(Option("config" if word == "-c" else name, value if has_value else None))
        elif found and found[-1].value is None:
            found[-1] = found[-1]._replace(value=word)
        else:
            raise UsageError(
                f"{word!r} belongs to no option: a config is given as --config FILE, a checkpoint as --ckpt_path PATH."
            )
    for option in found:
        if option.value is None and option.name != "print_config":
            raise UsageError(f"--{option.name} needs a value.")
    return found
