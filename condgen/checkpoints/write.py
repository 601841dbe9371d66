"""Writes checkpoint files atomically."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from condgen.checkpoints.read import read_checkpoint
from condgen.files.atomic import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning plugin for saving checkpoints atomically and loading them without running any code.

    A new checkpoint is first saved to a temporary file before replacing the old one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        # In torch 2.8, the scheduler state of StochasticWeightAveraging has a function in it that we can't load again.
        parts = {name: _without_functions(checkpoint[name]) for name in {"callbacks", "lr_schedulers"} & {*checkpoint}}
        checkpoint = {**checkpoint, **parts}
        with atomic_write(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch raises this if the file can't be written
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def _without_functions(state: Any) -> Any:
    if isinstance(state, list):
        return [_without_functions(value) for value in state]
    if not isinstance(state, dict):
        return state
    return {name: _without_functions(value) for name, value in state.items() if not callable(value)}
