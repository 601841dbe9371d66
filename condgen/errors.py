"""Errors that the command line reports to the user in one line."""

import sys


class UsageError(Exception):
    """An error that the user can fix, such as a wrong setting, a damaged file or a full disk.

    The message is one line that names the cause and says what to do. The command line prints only this message and
    exits with code 1. Any other exception is a bug, and its traceback is printed.
    """


class CollectiveError(UsageError):
    """A UsageError that all processes of a training run raise at the same point. Only the first process prints it."""


def printable(text: str) -> str:
    """Escapes line breaks, control characters and other unprintable characters in a text."""
    return text if text.isprintable() else repr(text)[1:-1]


def short_reason(error: Exception) -> str:
    """Returns the text of an error on one printable line of at most 200 characters, or its type if it has no text."""
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__


def check_number(
    name: str,
    value: float,
    *,
    at_least: int | None = None,
    above: int | None = None,
    at_most: int | None = None,
) -> None:
    """Checks that a setting is a finite number within bounds.

    Args:
        name: Name of the setting, used in the error message.
        value: Value of the setting.
        at_least: Lower bound, which the value may equal.
        above: Lower bound, which the value must exceed.
        at_most: Upper bound, which the value may equal.

    Raises:
        UsageError: If the value is not a finite number or is out of bounds.
    """
    if (
        isinstance(value, int | float)
        and abs(value) <= sys.float_info.max  # excludes infinity, NaN, and integers that are too large for a float
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
