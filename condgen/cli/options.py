"""Reads the settings of a command line and its config files, before jsonargparse parses them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from condgen.errors import UsageError

PARSER_SETTINGS: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}  # raise instead of printing the usage


class Option(NamedTuple):
    """A setting from the command line or from a config file.

    Args:
        name: Full name of the setting without dashes.
        value: Value of the setting.
        source: ``FILE: `` if the setting comes from a config file, otherwise "".
    """

    name: str
    value: Any
    source: str = ""

    def __str__(self) -> str:
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"


def read_options(words: Iterable[str]) -> list[Option]:
    """Reads the options of a command line.

    ``str(option)`` has the form ``--name=value``, so that jsonargparse does not mistake a value such as -1e-3 for an
    option.

    Raises:
        UsageError: If a word does not belong to an option, or if an option has no value.
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
                f"{word!r} is not an option: use --config FILE for a config, --ckpt_path PATH for a checkpoint."
            )
    for option in found:
        if option.value is None and option.name != "print_config":
            raise UsageError(f"--{option.name} needs a value.")
    return found


def settings_in(content: Mapping[str, Any], source: str) -> Iterator[Option]:
    """Yields each setting in the content of a config file as an option. The value None becomes ``null``.

    Args:
        content: Nested settings of the file.
        source: Prefix for error messages, ``FILE: ``.
    """
    for key, value in content.items():
        if isinstance(value, dict):
            yield from (option._replace(name=f"{key}.{option.name}") for option in settings_in(value, source))
        else:
            yield Option(str(key), "null" if value is None else value, source)


def plain_name(name: str) -> str:
    """Returns the short form of a setting's name.

    ``model.init_args.lr`` becomes ``model.lr``, ``model.class_path`` becomes ``model``, and ``trainer.callbacks+``
    becomes ``trainer.callbacks``.
    """
    return name.replace(".init_args.", ".").removesuffix(".class_path").removesuffix("+")


def last_value(options: Iterable[Option], name: str) -> str | None:
    """Returns the last value that is given for a setting. None if there is no value or if the last one is ``null``."""
    values = [option.value for option in options if plain_name(option.name) == name]
    return None if not values or values[-1] == "null" else str(values[-1])


def is_question(words: Iterable[str]) -> bool:
    """Returns whether a command line requests help or a completion script, which jsonargparse prints."""
    return any(re.fullmatch(r"-h|--help|--print_completion.*|--[\w.]+\.help.*", word) for word in words)


def as_list(value: Any) -> list[Any]:
    """Returns the values of a setting as a list. The setting may be None, one value, or a list or tuple of values."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
