"""condgen: class-conditional image generation with PyTorch Lightning, from the average digit onwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condgen.generators import ConditionalGenerator

__version__ = "0.2.0"


def load(path: str | Path = "last", **settings: Any) -> ConditionalGenerator:
    """Returns a trained generator, on the CPU and in eval mode.

    Args:
        path: a checkpoint file, a run directory (its last checkpoint is taken), ``last`` or ``best`` of the newest run
            under ``./lightning_logs``, or a file of ``condgen export --format safetensors``.
        settings: of the family, that are to be others than in training: ``guidance=1.5`` for a diffusion.

    Raises:
        condgen.errors.UsageError: the checkpoint does not exist or is not one of condgen's, or the settings do not
            fit it.
    """
    from condgen.checkpoints.build import load_generator  # imported when called: `import condgen` stays free of torch

    return load_generator(path, **settings)
