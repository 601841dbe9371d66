"""Class-conditional image generation with PyTorch Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condgen.generators import ConditionalGenerator

__version__ = "0.2.0"


def load(path: str | Path = "last", **settings: Any) -> ConditionalGenerator:
    """Loads a trained generator on the CPU and sets it to eval mode.

    Args:
        path: Path to a checkpoint, of a run directory (its last checkpoint is loaded), or of a file written by
            ``condgen export --format safetensors``. ``last`` and ``best`` refer to the newest run under
            ``./lightning_logs``.
        settings: Hyperparameters that replace those from training, such as ``guidance=1.5`` for a diffusion model.

    Returns:
        The generator.

    Raises:
        condgen.errors.UsageError: If the checkpoint does not exist, if condgen did not write it, or if ``settings``
            contains an unknown hyperparameter or a value that does not match the weights.
    """
    from condgen.checkpoints.build import load_generator  # imported here so that `import condgen` does not import torch

    return load_generator(path, **settings)
