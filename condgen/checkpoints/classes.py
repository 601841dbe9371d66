"""Finds classes by name among the imported classes, because a file must never make condgen import a class."""

import inspect
from pathlib import Path
from typing import TypeVar

from condgen.errors import UsageError

T = TypeVar("T")


def imported_classes(base: type[T]) -> list[type[T]]:
    """Returns all direct and indirect subclasses of ``base`` that have been imported."""
    found, waiting = list[type[T]](), [base]
    while waiting:
        new = [subclass for subclass in waiting.pop().__subclasses__() if subclass not in found]
        found += new
        waiting += new
    return found


def imported_families(base: type[T]) -> dict[str, type[T]]:
    """Returns the imported subclasses of ``base`` that are not abstract, as a dictionary from short name to class."""
    return {found.__name__: found for found in imported_classes(base) if not inspect.isabstract(found)}


def known_names(base: type[T]) -> set[str]:
    """Returns the short and full names of the imported subclasses of ``base`` that are not abstract."""
    found = imported_families(base)
    return {*found, *(f"{family.__module__}.{family.__qualname__}" for family in found.values())}


def imported_class(class_path: str, base: type[T], path: Path) -> type[T]:
    """Finds an imported class by its full name.

    Args:
        class_path: Full name of the class, such as ``condgen.generators.dnn.DNN``.
        base: Base class of the class.
        path: Path to the checkpoint that names the class, used in the error message.

    Raises:
        UsageError: If no subclass of ``base`` with this name has been imported.
    """
    for found in imported_classes(base):
        if f"{found.__module__}.{found.__qualname__}" == class_path:
            return found
    raise UsageError(
        f"{path} names the class {class_path}, which condgen does not know. If you trust it, add "
        f"--import {class_path.rpartition('.')[0]}, or import it in Python first."
    )


def short_name(class_path: str) -> str:
    """Shortens the full name of a class in condgen to the name of the class. Other names are returned unchanged."""
    return class_path.rpartition(".")[2] if class_path.startswith("condgen.") else class_path
