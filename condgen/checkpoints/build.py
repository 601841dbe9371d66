"""Checkpoints: written whole, read as data and never as code, and turned into generators again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from condgen.checkpoints.classes import imported_class
from condgen.checkpoints.find import find_checkpoint
from condgen.checkpoints.fit import _version, check_weights
from condgen.checkpoints.read import read_checkpoint, read_weights
from condgen.checkpoints.settings import check_types
from condgen.errors import UsageError
from condgen.files.reading import open_regular
from condgen.generators import ConditionalGenerator


def load_generator(path: str | Path, **settings: Any) -> ConditionalGenerator:
    """See :func:`condgen.load`."""
    found = find_checkpoint(path, root=Path())
    if found.suffix != ".safetensors":
        return generator_of(read_checkpoint(found), found, settings)
    try:
        with open_regular(found) as file:
            content = file.read()
    except OSError as error:
        raise UsageError(f"{found} cannot be read ({error.strerror}): allow reading, or give another file.") from error
    return generator_of(read_weights(content, found), found, settings)


def generator_of(checkpoint: dict[str, Any], found: Path, settings: Mapping[str, Any]) -> ConditionalGenerator:
    """The generator of a checkpoint, on the CPU and in eval mode; see :func:`condgen.load`."""
    generator_class = imported_class(checkpoint["condgen"]["model"], ConditionalGenerator, found)  # type: ignore[type-abstract]
    for name in settings.keys() - checkpoint["hyper_parameters"].keys():
        known = ", ".join(checkpoint["hyper_parameters"])
        raise UsageError(f"{generator_class.__name__} has no setting {name}, but {known}.")
    check_settings(checkpoint, found, **settings)
    generator = _build(generator_class, checkpoint, found, settings)
    generator.load_state_dict(checkpoint["state_dict"])
    return generator.eval()


def _build(
    generator_class: type[ConditionalGenerator], checkpoint: dict[str, Any], found: Path, settings: Mapping[str, Any]
) -> ConditionalGenerator:
    """A checkpoint's generator before its weights are loaded."""
    try:
        generator = generator_class(**{**checkpoint["hyper_parameters"], **settings})
    except UsageError as error:
        raise UsageError(f"{found}: {error}") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        cause = str(error).partition("\n")[0]  # torch may add a stack of C++ functions
        raise UsageError(f"{found} does not fit {generator_class.__name__} ({cause}){_version(checkpoint)}.") from error
    if checkpoint.get("sampler_only"):
        generator.remove_training_parts()
    return generator


def check_settings(checkpoint: dict[str, Any], found: Path, **settings: Any) -> None:
    """Raises UsageError if a checkpoint's settings, some of them replaced, are not those of its weights.

    It takes no memory for them: the settings of a small file may ask for a huge network.
    """
    generator_class = imported_class(checkpoint["condgen"]["model"], ConditionalGenerator, found)  # type: ignore[type-abstract]
    check_types(generator_class, {**checkpoint["hyper_parameters"], **settings}, found)
    with torch.device("meta"):
        check_weights(checkpoint, found, _build(generator_class, checkpoint, found, settings))
