"""Reads and writes ``scores.json``.

Since the file may come from an untrusted source, :func:`read_scores` checks the type and range of every value so that
other code doesn't have to. It also escapes control characters to make the text safe to print in a terminal.
"""

import json
import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from condgen.checkpoints.find import is_exported
from condgen.errors import UsageError, printable
from condgen.files.atomic import atomic_write
from condgen.files.reading import read_limited

MAX_SCORES_BYTES = 2**20  # scores for a thousand labels take up a quarter of this
MAX_NAME, MAX_TEXT = 100, 4096  # max characters in a table heading, and in any other text
MAX_NUMBER = 2**64  # larger than any seed


def _is_number(value: Any, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


TYPES: dict[str, Callable[[Any], bool]] = {
    "anything": lambda value: True,
    "a mapping": lambda value: isinstance(value, dict),
    "text": lambda value: isinstance(value, str),
    "a name": lambda value: isinstance(value, str) and len(value) <= MAX_NAME,
    "a whole number from 0": lambda value: isinstance(value, int) and _is_number(value, 0),
    "a number from 0 to 1": lambda value: _is_number(value, 0, 1),
    "a number from 0": lambda value: _is_number(value, 0),
    "a number from 0 or null": lambda value: value is None or _is_number(value, 0),
    "a number or null": lambda value: value is None or _is_number(value),
}
# The expected type for each key. Keys ending in ? are optional, and * matches all other keys.
SCORE = {
    "value": "a number or null",
    "uncertainty": "a number from 0 or null",
    "real": "a number or null",
    "real_uncertainty": "a number from 0 or null",
    "per_label?": {"*": "a number or null"},
}
MAIN = {"value": "a number from 0", "real": "a number from 0"}  # for the scores that are plotted
FRACTION = SCORE | {"value": "a number from 0 to 1", "real": "a number from 0 to 1"}
CONTENT: dict[str, Any] = {
    "generator?": "a name",
    "settings?": "a mapping",
    "checkpoint?": {
        "path?": "text",
        "epochs?": "a whole number from 0",
        "steps?": "a whole number from 0",
        "training_minutes?": "a number from 0 or null",
    },
    "samples?": {"number?": "a whole number from 0", "seed?": "a whole number from 0"},
    "data": "a name",
    "source?": "a name",
    "test_images": "a whole number from 0",
    "evaluator?": "a name",
    "versions?": "a mapping",
    "scores": {"accuracy?": FRACTION, "coverage?": FRACTION, "*": SCORE},
    "cost": {"*": "a number or null"},
}


def write_scores(
    path: Path, scores: dict[str, dict[str, Any]], cost: dict[str, float | None], about: dict[str, Any]
) -> None:
    """Writes ``scores.json``.

    Args:
        path: Where to save the file.
        scores: The scores returned by :func:`condgen.evaluation.scores.score_samples`.
        cost: The training and sampling costs, e.g. ``parameters`` and ``nfe``.
        about: Details about the samples, the generator, the dataset, and the evaluator.
    """
    text = json.dumps({**about, "scores": scores, "cost": cost}, indent=1, ensure_ascii=False, default=str)
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace") + b"\n")  # paths may contain invalid UTF-8


def main_scores(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the names of the two scores that summarize a run, one for variety and one for label accuracy.

    Args:
        scores: The ``scores`` entry of a ``scores.json``. Has no accuracy if there was no evaluator.
    """
    return ("coverage", "accuracy") if "accuracy" in scores else ("diversity", "gan_train_accuracy")


def read_scores(path: Path) -> dict[str, Any]:
    """Loads and validates a ``scores.json``.

    Args:
        path: Path to the file, or to a run directory that contains it.

    Raises:
        UsageError: If the file doesn't exist, or if a value is missing, has the wrong type, or is out of range.
    """
    file = path / "scores.json" if os.path.isdir(path) else path
    try:
        content = _printable(json.loads(read_limited(file, MAX_SCORES_BYTES)))
        _check(content, CONTENT)
        for name in main_scores(content["scores"]):
            _check(content["scores"].get(name), MAIN, f"scores.{name}.")
    except FileNotFoundError as error:
        raise UsageError(_no_scores(file, path)) from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}). Recreate it with `condgen test`.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} was not written by condgen ({error}). Recreate it with `condgen test`.") from error
    return content


def _no_scores(file: Path, path: Path) -> str:
    """Returns the error message for a missing file, with the commands that create it."""
    if not is_exported(path):
        return f"{file} does not exist. Create it with `condgen test --ckpt_path {path}`."
    return (
        f"{path} has no scores, because it is an exported generator. Use `condgen predict --ckpt_path {path} "
        "--data.samples_per_label 1000 --predictions.dirpath samples` and `condgen score samples`, then compare these."
    )


def _printable(value: Any) -> Any:
    """Escapes control characters. Raises a ``ValueError`` for overly long text and for huge or non-finite numbers."""
    if isinstance(value, dict):
        return {_printable(name): _printable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ValueError(f"it contains a text of {len(value):,} characters")
        return printable(value)
    if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        raise ValueError(f"it contains the number {reprlib.repr(value)}")
    return value


def _check(value: Any, expected: Any, place: str = "") -> None:
    """Recursively checks the type of a value and raises a ``ValueError`` if it is wrong.

    Args:
        expected: The expected type, which is either a key of ``TYPES`` or a mapping in the same format as ``CONTENT``.
        place: The dotted path to the value, used in the error message.
    """
    kind = expected if isinstance(expected, str) else "a mapping"
    if not TYPES[kind](value):
        raise ValueError(f"{place.removesuffix('.') or 'it'} is {reprlib.repr(value)}, not {kind}")
    if isinstance(expected, dict):
        for name in expected:
            if not name.endswith(("?", "*")) and name not in value:
                raise ValueError(f"it has no {place}{name}")
        for name, inner in value.items():
            kinds = (expected.get(key) for key in (name, f"{name}?", "*"))
            _check(inner, next(filter(None, kinds), "anything"), f"{place}{name:.50}.")
