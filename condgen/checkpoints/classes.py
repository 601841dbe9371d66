"""Finds classes by name among those that are imported: a file never makes condgen import one."""

import inspect
from pathlib import Path
from typing import TypeVar

from condgen.errors import UsageError

T = TypeVar("T")


def imported_classes(base: type[T]) -> list[type[T]]:
    """Returns the direct and indirect subclasses of ``base`` that are imported so far."""
    found, waiting = list[type[T]](), [base]
    while waiting:
        new = [subclass for subclass in waiting.pop().__subclasses__() if subclass not in found]
        found += new
        waiting += new
    return found


def imported_families(base: type[T]) -> dict[str, type[T]]:
    """Returns the concrete classes among :func:`imported_classes`, by their short names."""
    return {found.__name__: found for found in imported_classes(base) if not inspect.isabstract(found)}


def known_names(base: type[T]) -> set[str]:
    """Returns the short and full names of the concrete subclasses of ``base`` that are imported."""
    found = imported_families(base)
    return {*found, *(f"{family.__module__}.{family.__qualname__}" for family in found.values())}


def imported_class(class_path: str, base: type[T], path: Path) -> type[T]:
    """Returns the imported subclass of ``base`` with the full name that the checkpoint ``path`` gives.

    Raises:
        UsageError: no such class is imported.
    """
    for found in imported_classes(base):
        if f"{found.__module__}.{found.__qualname__}" == class_path:
            return found
    raise UsageError(
        f"{path} is of the class {class_path}, which condgen does not know. If you trust it, add "
        f"--import {class_path.rpartition('.')[0]}, or import it in Python first."
    )


def short_name(class_path: str) -> str:
    """Returns the short name of a class of condgen's, or the full name of another class."""
    return class_path.rpartition(".")[2] if class_path.startswith("condgen.") else class_path
