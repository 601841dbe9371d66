"""Whether a checkpoint's weights fit a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import condgen
from condgen.errors import UsageError
from condgen.generators import ConditionalGenerator

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # weights of one are converted to another


def check_weights(checkpoint: dict[str, Any], path: Path, generator: ConditionalGenerator) -> None:
    """Raises UsageError if a checkpoint's weights are damaged, or are those of a generator with other settings."""
    needed = {name: _shape(weights) for name, weights in generator.state_dict().items()}
    saved = {name: _shape(weights) for name, weights in checkpoint["state_dict"].items()}
    wrong = sorted((name for name in needed.keys() | saved.keys() if needed.get(name) != saved.get(name)), key=str)
    bound = checkpoint["hyper_parameters"] if wrong else generator.fixed_by_training
    for name in bound:
        value = checkpoint["hyper_parameters"].get(name)
        if name in generator.hparams and generator.hparams[name] != value:
            raise UsageError(
                f"model.{name} is {generator.hparams[name]}, but {path} was trained with {value}: leave it out."
            )
    if wrong:
        raise UsageError(
            f"{path} does not fit {type(generator).__name__} ({wrong[0]} has the shape {saved.get(wrong[0])}, not "
            f"{needed.get(wrong[0])}){_version(checkpoint)}."
        )
    for name, weights in checkpoint["state_dict"].items():
        if weights.is_meta or not weights.isfinite().all():
            raise UsageError(f"{path} is damaged: {name} is not finite. Use another checkpoint.")


def _shape(weights: object) -> str | None:
    """The shape of weights, and their type if it is none of :data:`FLOATS`; None for anything else than an array.

    Nor is one number that is expanded to a large shape, which a small file can hold.
    """
    if not isinstance(weights, Tensor) or weights.layout != torch.strided or weights.is_nested:
        return None
    if weights.untyped_storage().nbytes() < weights.nbytes:
        return None
    return f"{weights.shape}" if weights.dtype in FLOATS else f"{weights.shape} of {weights.dtype}"


def _version(checkpoint: dict[str, Any]) -> str:
    """Of another condgen, which explains much."""
    version = checkpoint["condgen"].get("version")
    return f": it was written by condgen {version}, this is {condgen.__version__}" * (version != condgen.__version__)
