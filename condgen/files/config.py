"""Loads YAML settings from untrusted files."""

import re
import reprlib
from typing import Any

import yaml

from condgen.errors import UsageError, short_reason
from condgen.files.reading import read_limited

MAX_CONFIG_BYTES, MAX_CONFIG_VALUES, MAX_DEPTH = 2**20, 100_000, 100


def read_config(path: str) -> dict[str, Any]:
    """Loads the settings from a config file.

    Raises:
        UsageError: If the file can't be read, contains no settings, or is too large once all YAML aliases are expanded.
    """
    try:
        text = read_limited(path, MAX_CONFIG_BYTES).decode()
        if re.search(r"\d(:\d{1,2}){9}", text):  # a YAML 1.1 base-60 number, which takes quadratic time to parse
            raise ValueError("it contains a number with more than nine colons")
        settings = yaml.safe_load(text)
        size = number_of_values(settings)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): use a YAML file.") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML ({short_reason(error)}).") from error
    if size > MAX_CONFIG_VALUES:
        raise UsageError(f"{path} has {size:.3g} values: use a config with at most {MAX_CONFIG_VALUES:,} values.")
    if not isinstance(settings, dict):
        raise UsageError(f"{path} contains {reprlib.repr(settings):.60}: write settings, as in configs/base.yaml.")
    return settings


def number_of_values(value: Any, known: dict[int, int] | None = None, depth: int = 0) -> int:
    """Counts the values in nested lists and mappings, with all YAML aliases expanded.

    The lists in a small YAML file can reference each other so many times that we would run out of memory printing them.

    Args:
        known: The counts of the lists and mappings visited so far, by id.
    """
    known = {} if known is None else known
    if not isinstance(value, dict | list | tuple):
        return 1 + (len(value) // 100 if isinstance(value, str) else 0)
    if id(value) not in known:
        known[id(value)] = MAX_CONFIG_VALUES + 1  # placeholder that stops the recursion if a list contains itself
        if depth < MAX_DEPTH:
            inside = value.values() if isinstance(value, dict) else value
            known[id(value)] = 1 + sum(number_of_values(each, known, depth + 1) for each in inside)
    return known[id(value)]
