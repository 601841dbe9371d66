"""Types for generator settings and a function to validate them.

jsonargparse checks these types when it parses the command line. We check them again in the constructors, since those
can also be called from Python or with settings loaded from a file.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from condgen.errors import UsageError

if TYPE_CHECKING:
    NonNegativeInt = int
    PositiveInt = int
    Size = int
    Count = int
    NonNegativeFloat = float
    PositiveFloat = float
    UnitInterval = float
else:
    from jsonargparse.typing import ClosedUnitInterval as UnitInterval
    from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, restricted_number_type

    # The upper bounds limit how much memory and time settings from a file can use.
    Size = restricted_number_type("Size", int, [(">=", 1), ("<=", 1_000_000)])
    Count = restricted_number_type("Count", int, [(">=", 0), ("<=", 10_000)])

EXPECTED = {
    PositiveInt: "a whole number of at least 1",
    NonNegativeInt: "a whole number of at least 0",
    Size: "a whole number from 1 to 1,000,000",
    Count: "a whole number from 0 to 10,000",
    PositiveFloat: "a number above 0",
    NonNegativeFloat: "a number of at least 0",
    UnitInterval: "a number from 0 to 1",
    float: "a finite number",
}


def plain_settings(family: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Validates generator settings and converts numbers to built-in types so that checkpoints can store them.

    Args:
        family: The generator class.
        settings: Constructor arguments by name.

    Raises:
        UsageError: If a value does not match its type annotation in the constructor.
    """
    annotations: dict[str, Any] = {}
    for base in reversed(family.__mro__):  # subclasses may pass settings on to their base class
        with contextlib.suppress(NameError):  # annotations may only be imported under TYPE_CHECKING
            annotations |= get_type_hints(base.__init__)  # type: ignore[misc]
    return {name: _plain(f"model.{name}", value, annotations.get(name)) for name, value in settings.items()}


def _plain(name: str, value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{name} is {value!r:.80}. Use one of {', '.join(map(str, arguments))}.")
        return value
    if origin in (Sequence, list):
        if not isinstance(value, list | tuple):
            raise UsageError(f"{name} is {value!r:.80}. Use a list.")
        return type(value)(_plain(name, each, arguments[0]) for each in value)
    if not isinstance(annotation, type) or not issubclass(annotation, int | float):
        return value
    number_type = bool if annotation is bool else int if issubclass(annotation, int) else float
    is_number = isinstance(value, number_type | int) and isinstance(value, bool) == (annotation is bool)
    try:
        if is_number and math.isfinite(annotation(value)):
            return number_type(value)
    except (ValueError, OverflowError):
        pass
    expected = EXPECTED.get(annotation, f"a value of type {annotation.__name__}")
    raise UsageError(f"{name} is {value!r:.80}. Use {expected}.")
