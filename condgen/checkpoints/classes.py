"""Looks up classes by name. They need to be imported already, since a file should never trigger an import."""

import inspect
from pathlib import Path
from typing import TypeVar

from condgen.errors import UsageError

T = TypeVar("T")


def imported_classes(base: type[T]) -> list[type[T]]:
    """Returns all imported subclasses of ``base``, including indirect ones."""
    found, waiting = list[type[T]](), [base]
    while waiting:
        new = [subclass for subclass in waiting.pop().__subclasses__() if subclass not in found]
        found += new
        waiting += new
    return found


def imported_families(base: type[T]) -> dict[str, type[T]]:
    """Returns a dictionary with all imported subclasses of ``base`` by short name, skipping any abstract classes."""
    return {found.__name__: found for found in imported_classes(base) if not inspect.isabstract(found)}


def known_names(base: type[T]) -> set[str]:
    """Returns the short and full names of all imported subclasses of ``base``, skipping any abstract classes."""
    found = imported_families(base)
    return {*found, *(f"{family.__module__}.{family.__qualname__}" for family in found.values())}


def imported_class(class_path: str, base: type[T], path: Path) -> type[T]:
    """Looks up an imported class by its full name.

    Args:
        class_path: The full name of the class, e.g. ``condgen.generators.dnn.DNN``.
        base: The base class to search.
        path: Path to the checkpoint, used in the error message.

    Raises:
        UsageError: If there is no imported class with this name.
    """
    for found in imported_classes(base):
        if f"{found.__module__}.{found.__qualname__}" == class_path:
            return found
    raise UsageError(
        f"{path} names the class {class_path}, which condgen does not know. If you trust it, add "
        f"--import {class_path.rpartition('.')[0]}, or import it in Python first."
    )


def short_name(class_path: str) -> str:
    """Returns the name without the module if this is one of condgen's own classes."""
    return class_path.rpartition(".")[2] if class_path.startswith("condgen.") else class_path
