"""Class-conditional image generation with PyTorch Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condgen.generators import ConditionalGenerator

__version__ = "0.2.0"


def load(path: str | Path = "last", **settings: Any) -> ConditionalGenerator:
    """Loads a trained generator on the CPU and puts it in eval mode.

    Args:
        path: Path to a checkpoint, to a run directory (to load its last checkpoint), or to the output of ``condgen
            export --format safetensors``. You can also use ``last`` or ``best`` to load the checkpoint of the
            newest run in ``./lightning_logs``, or ``mnist`` for a diffusion model that comes with condgen.
        settings: Hyperparameters to override, e.g. ``guidance=1.5`` for a diffusion model.

    Raises:
        condgen.errors.UsageError: If the checkpoint doesn't exist or was not created by condgen, or if there is a
            problem with ``settings``, such as an unknown hyperparameter or a value that doesn't match the weights.
    """
    from condgen.checkpoints.build import load_generator  # `import condgen` should not import torch

    return load_generator(path, **settings)
