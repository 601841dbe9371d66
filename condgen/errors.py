"""Errors that are reported to the user in one line."""

import sys


class UsageError(Exception):
    """A mistake of the user or a fault of the system. The message, one line, names the cause and the way out.

    The command line prints the message alone and exits with 1. Any other exception is a bug and keeps its traceback.
    """


class CollectiveError(UsageError):
    """A UsageError that all processes raise at the same point. Only the first process prints it."""


def printable(text: str) -> str:
    """Escapes control characters, line breaks and the like in a text."""
    return text if text.isprintable() else repr(text)[1:-1]


def check_number(
    name: str,
    value: float,
    *,
    at_least: int | None = None,
    above: int | None = None,
    at_most: int | None = None,
) -> None:
    """Raises UsageError unless the setting ``name`` is finite and within the given bounds."""
    if (
        isinstance(value, int | float)
        and abs(value) <= sys.float_info.max  # not infinite, not NaN, and no integer that is too large for a float
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
