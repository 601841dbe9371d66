"""Errors that are shown to the user as a single line."""

import sys


class UsageError(Exception):
    """An error that the user can fix, e.g. a wrong setting, a damaged file or a full disk.

    The message should be a single line that says what went wrong and how to fix it. This is all that the command line
    prints before exiting with code 1. Any other exception is considered a bug and shows the full traceback.
    """


class CollectiveError(UsageError):
    """A UsageError that is raised in all processes at the same point, but only printed by the first one."""


def printable(text: str) -> str:
    """Escapes line breaks and any other characters that can't be printed."""
    return text if text.isprintable() else repr(text)[1:-1]


def short_reason(error: Exception) -> str:
    """Returns an error message on a single line with at most 200 characters. If it is empty, returns the error type."""
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__


def check_number(
    name: str,
    value: float,
    *,
    at_least: int | None = None,
    above: int | None = None,
    at_most: int | None = None,
) -> None:
    """Checks that a number is finite and within the given bounds.

    Args:
        name: The name of the setting, used in the error message.
        value: The value to check.
        at_least: The lower bound (inclusive).
        above: The lower bound (exclusive).
        at_most: The upper bound (inclusive).

    Raises:
        UsageError: If the value is out of bounds or not a finite number.
    """
    if (
        isinstance(value, int | float)
        and abs(value) <= sys.float_info.max  # no infinity, NaN, or integers that don't fit in a float
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
    raise UsageError(f"{name} is {value}: use {allowed}.")
