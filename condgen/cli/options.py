"""Collects the settings from the command line and config files before they are parsed by jsonargparse."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from condgen.errors import UsageError

PARSER_SETTINGS: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}  # raise instead of printing the usage


class Option(NamedTuple):
    """A setting from the command line or a config file.

    Args:
        name: The full name of the setting, without dashes.
        value: The value to set.
        source: ``FILE: `` if the setting comes from a config file, otherwise empty.
    """

    name: str
    value: Any
    source: str = ""

    def __str__(self) -> str:
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"


def read_paths_and_options(words: Iterable[str]) -> tuple[list[str], list[Option]]:
    """Separates the paths on the command line from the options. Each option is followed by its value.

    Use ``str(option)`` to get them as ``--name=value``. Otherwise, jsonargparse would take a value like -1e-3 for an
    option.

    Raises:
        UsageError: If an option is missing its value.
    """
    paths: list[str] = []
    found: list[Option] = []
    for word in words:
        if word.startswith("--") or word == "-c":
            name, has_value, value = word.lstrip("-").partition("=")
            found.append(Option("config" if word == "-c" else name, value if has_value else None))
        elif found and found[-1].value is None:
            found[-1] = found[-1]._replace(value=word)
        else:
            paths.append(word)
    for option in found:
        if option.value is None and option.name != "print_config":
            raise UsageError(f"--{option.name} needs a value.")
    return paths, found


def settings_in(content: Mapping[str, Any], source: str) -> Iterator[Option]:
    """Converts the settings from a config file to options. None is converted to ``null``.

    Args:
        content: The nested dictionary of settings.
        source: The prefix to use for error messages, ``FILE: ``.
    """
    for key, value in content.items():
        if isinstance(value, dict):
            yield from (option._replace(name=f"{key}.{option.name}") for option in settings_in(value, source))
        else:
            yield Option(str(key), "null" if value is None else value, source)


def plain_name(name: str) -> str:
    """Returns the short name of a setting.

    For example, ``model.init_args.lr`` becomes ``model.lr``, ``model.class_path`` becomes ``model``, and
    ``trainer.callbacks+`` becomes ``trainer.callbacks``.
    """
    return name.replace(".init_args.", ".").removesuffix(".class_path").removesuffix("+")


def last_value(options: Iterable[Option], name: str) -> str | None:
    """Returns the last value given for a setting, or None if it is missing or ``null``."""
    values = [option.value for option in options if plain_name(option.name) == name]
    return None if not values or values[-1] == "null" else str(values[-1])


def is_question(words: Iterable[str]) -> bool:
    """Checks if the user is asking for help or a completion script. Both are handled by jsonargparse."""
    return any(re.fullmatch(r"-h|--help|--print_completion.*|--[\w.]+\.help.*", word) for word in words)


def as_list(value: Any) -> list[Any]:
    """Converts a setting to a list. It can be a list or tuple, a single value, or None."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
