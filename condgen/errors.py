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


def check_number(name: str, value: float, *, at_least: int, at_most: int | None = None) -> None:
    """Raises a UsageError unless the value of the setting ``name`` is a finite number within the bounds (inclusive)."""
    # the largest float excludes infinity, NaN, and integers that don't fit in a float
    largest = sys.float_info.max if at_most is None else at_most
    if not isinstance(value, int | float) or not at_least <= value <= largest:
        allowed = f"{at_least} or more" if at_most is None else f"{at_least:,} to {at_most:,}"
        raise UsageError(f"{name} is {value}: use {allowed}.")
