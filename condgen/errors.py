"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations

import sys


class UsageError(Exception):
    """What was asked for cannot be done; the message names the cause and the way out, in one line.

    The command line prints the message alone and exits with 1; any other exception is a bug and keeps its traceback.
    """


class CollectiveError(UsageError):
    """A UsageError that every process raises at the same place. Only the first process prints it."""


def printable(text: str) -> str:
    """The text with control characters, line breaks and the like as escape sequences."""
    return text if text.isprintable() else repr(text)[1:-1]


def check_number(
    name: str,
    value: float,
    *,
    at_least: int | None = None,
    above: int | None = None,
    at_most: int | None = None,
) -> None:
    """Raises UsageError unless the setting ``name`` has a finite value within the bounds that are given."""
    if (
        isinstance(value, int | float)
        and abs(value) <= sys.float_info.max  # neither infinite nor NaN, nor a whole number that no float can hold
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
    ):
        return
    if at_most is not None:
        allowed = f"{at_least:,} to {at_most:,}" if above is None else f"a number above {above} and at most {at_most:,}"
    elif above is not None:
        allowed = f"a number above {above}"
    else:
        allowed = "a finite number" if at_least is None else f"{at_least} or more"
    raise UsageError(f"{name} is {value}: give {allowed}.")
