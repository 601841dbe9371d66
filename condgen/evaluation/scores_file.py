"""Reads and writes ``scores.json``.

The file may come from anybody. :func:`read_scores` checks the types and ranges of all values, so that no other code has
to, and escapes control characters, so that the text is harmless in a terminal.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from condgen.errors import UsageError, printable
from condgen.files.atomic import atomic_write
from condgen.files.reading import read_limited

MAX_BYTES = 2**20  # scores of a thousand labels need a quarter of it
MAX_NAME, MAX_TEXT = 100, 4096  # characters: of what is printed or drawn; of a path
MAX_NUMBER = 2**64  # seeds are below it
MAX_DEPTH = 10


def write_scores(
    path: Path, scores: dict[str, dict[str, Any]], cost: dict[str, float | None], about: dict[str, Any]
) -> None:
    """Writes ``scores.json``: what was scored and how it was chosen, the scores, the cost."""
    text = json.dumps({**about, "scores": scores, "cost": cost}, indent=1, ensure_ascii=False, default=str)
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace") + b"\n")  # a path may have bytes that are no text


def read_scores(path: Path) -> dict[str, Any]:
    """The content of a ``scores.json``, or of the one in a run directory.

    Raises:
        UsageError: there is none, or a value in it is missing, or of a wrong type or range.
    """
    file = path / "scores.json" if os.path.isdir(path) else path
    try:
        content = _plain(json.loads(read_limited(file, MAX_BYTES)))
        _check(content)
    except FileNotFoundError as error:
        raise UsageError(f"There is no {file}: make it with `condgen test --ckpt_path {path}`.") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): make it again with `condgen test`.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not one of condgen's ({error}): make it again with `condgen test`.") from error
    return content


def _plain(value: Any, depth: int = 0) -> Any:
    """The value with printable text; raises ValueError if it is too deep, too long, or not a finite number."""
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {_text(name, MAX_NAME): _plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth + 1) for inner in value]
    if isinstance(value, str):
        return _text(value, MAX_TEXT)
    if isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER:
        raise ValueError(f"it has the number {reprlib.repr(value)}")
    return value


def _text(text: str, limit: int) -> str:
    if len(text) > limit:
        raise ValueError(f"it has a text of {len(text):,} characters, {reprlib.repr(text)}")
    return printable(text)


class _Kind(NamedTuple):
    """What a value must be."""

    name: str
    includes: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TEXT = _Kind("text", lambda value: isinstance(value, str))
_NAME = _Kind("a name", lambda value: isinstance(value, str) and len(value) <= MAX_NAME)
_COUNT = _Kind("a whole number from 0", lambda value: type(value) is int and value >= 0)
_NUMBER = _Kind("a number or null", lambda value: value is None or _is_number(value))
_SIZE = _Kind("a number from 0 or null", lambda value: value is None or (_is_number(value) and value >= 0))
_PART = _Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
_MAPPING = _Kind("a mapping", lambda value: isinstance(value, dict))
_NUMBERS = _Kind(
    "a mapping of numbers", lambda value: isinstance(value, dict) and all(map(_NUMBER.includes, value.values()))
)


def _check(content: Any) -> None:
    """Raises ValueError for what is not the content of a ``scores.json``."""
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping")
    _expect(content, "", {"data": _NAME, "test_images": _COUNT, "scores": _MAPPING, "cost": _NUMBERS})
    optional = {"generator": _NAME, "source": _NAME, "judge": _NAME, "versions": _MAPPING, "settings": _MAPPING}
    _expect(content, "", {**optional, "samples": _MAPPING, "checkpoint": _MAPPING}, needed=False)
    _expect(content.get("samples", {}), "samples.", {"number": _COUNT, "seed": _COUNT}, needed=False)
    checkpoint = {"path": _TEXT, "steps": _COUNT, "epochs": _COUNT, "training_minutes": _SIZE}
    _expect(content.get("checkpoint", {}), "checkpoint.", checkpoint, needed=False)
    _expect(content["scores"], "scores.", {"accuracy": _MAPPING, "coverage": _MAPPING})
    for name, score in content["scores"].items():
        _expect({name: score}, "scores.", {name: _MAPPING})
        value = _PART if name in ("accuracy", "coverage") else _NUMBER
        kinds = {"value": value, "uncertainty": _SIZE, "floor": value, "floor_uncertainty": _SIZE}
        _expect(score, f"scores.{name}.", kinds)
        _expect(score, f"scores.{name}.", {"per_label": _NUMBERS}, needed=False)


def _expect(values: Mapping[str, Any], prefix: str, kinds: Mapping[str, _Kind], needed: bool = True) -> None:
    """Raises ValueError unless each name has a value of its kind; it may be missing if it is not needed."""
    for name, kind in kinds.items():
        if name not in values:
            if needed:
                raise ValueError(f"it has no {prefix}{name}")
        elif not kind.includes(values[name]):
            raise ValueError(f"{prefix}{name} is {reprlib.repr(values[name])}, not {kind.name}")
