"""The settings that a command line and its config files give, before jsonargparse parses them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from condgen.errors import UsageError

PARSER_SETTINGS: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}  # raise instead of printing the usage


class Option(NamedTuple):
    """A setting: its full name without dashes, its value, and ``FILE: `` if a config file gives it."""

    name: str
    value: Any
    source: str = ""

    def __str__(self) -> str:
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"


def read_options(words: Iterable[str]) -> list[Option]:
    """Returns the options of a command line; their ``str`` has the form ``--name=value``, also for values such as
    -1e-3.

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


def settings_in(content: Mapping[str, Any], source: str) -> Iterator[Option]:
    """Returns the settings in the content of a config file, as if each was an option; None is ``null``."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from (option._replace(name=f"{key}.{option.name}") for option in settings_in(value, source))
        else:
            yield Option(str(key), "null" if value is None else value, source)


def plain_name(name: str) -> str:
    """``model.init_args.lr`` as ``model.lr``, ``model.class_path`` as ``model``, ``trainer.callbacks+`` without +."""
    return name.replace(".init_args.", ".").removesuffix(".class_path").removesuffix("+")


def last_value(options: Iterable[Option], name: str) -> str | None:
    """Returns the value of a setting that holds: the last one that is given; None if none is, or ``null``."""
    values = [option.value for option in options if plain_name(option.name) == name]
    return None if not values or values[-1] == "null" else str(values[-1])


def is_question(words: Iterable[str]) -> bool:
    """Returns whether a command line asks for help or a completion script, which jsonargparse prints."""
    return any(re.fullmatch(r"-h|--help|--print_completion.*|--[\w.]+\.help.*", word) for word in words)


def as_list(value: Any) -> list[Any]:
    """Returns a setting that is one value or several, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
