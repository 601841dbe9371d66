"""The classes that a checkpoint may name: those that have been imported."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TypeVar

from condgen.errors import UsageError

T = TypeVar("T")


def imported_classes(base: type[T]) -> list[type[T]]:
    """The subclasses of ``base`` that have been imported so far."""
    found, waiting = list[type[T]](), [base]
    while waiting:
        new = [subclass for subclass in waiting.pop().__subclasses__() if subclass not in found]
        found += new
        waiting += new
    return found


def imported_families(base: type[T]) -> dict[str, type[T]]:
    """The classes among :func:`imported_classes` of which there can be instances, by their short names."""
    return {found.__name__: found for found in imported_classes(base) if not inspect.isabstract(found)}


def known_names(base: type[T]) -> set[str]:
    """The names by which the command line knows the subclasses of ``base`` that have been imported."""
    found = imported_families(base)
    return {*found, *(f"{family.__module__}.{family.__qualname__}" for family in found.values())}


def imported_class(class_path: str, base: type[T], path: Path) -> type[T]:
    """The subclass of ``base`` with this full name, among those already imported: nothing is on a checkpoint's word.

    Raises:
        UsageError: there is none.
    """
    for found in imported_classes(base):
        if f"{found.__module__}.{found.__qualname__}" == class_path:
            return found
    raise UsageError(
        f"{path} is of the class {class_path}, which condgen does not know. If you trust it, add "
        f"--import {class_path.rpartition('.')[0]}, or import it in Python first."
    )


def short_name(class_path: str) -> str:
    """The name by which one of condgen's classes is called; another class keeps its full name."""
    return class_path.rpartition(".")[2] if class_path.startswith("condgen.") else class_path
