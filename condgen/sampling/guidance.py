"""Pictures of the same noise at several guidance scales."""

from collections.abc import Sequence
from pathlib import Path

import torch

from condgen.data.requests import SampleRequest
from condgen.errors import UsageError, check_number
from condgen.files.images import grid, write_png
from condgen.generators import ConditionalGenerator
from condgen.sampling.generate import generate_uint8
from condgen.sampling.trajectory import labels_and_noise

MAX_SCALES = 20


def check_guidance_grid(scales: Sequence[float]) -> None:
    """Raises a UsageError if there are too few or too many guidance scales, or if one is negative or not finite."""
    if not 1 <= len(scales) <= MAX_SCALES:
        raise UsageError(
            f"predictions.guidance_grid has {len(scales)} numbers. Use 1 to {MAX_SCALES} numbers, such as [1,1.5,2]."
        )
    for scale in scales:
        check_number("a number in predictions.guidance_grid", scale, at_least=0)


@torch.no_grad()
def write_guidance_grid(
    generator: ConditionalGenerator, request: SampleRequest, scales: Sequence[float], folder: Path
) -> None:
    """Saves ``guidance.png`` with a row for each of up to ten samples and a column for each guidance scale."""
    labels, noise = labels_and_noise(generator, request)
    guidance, columns = generator.hparams.guidance, []
    try:
        for scale in scales:
            generator.hparams.guidance = scale
            columns.append(generate_uint8(generator, labels, noise))
    finally:
        generator.hparams.guidance = guidance
    write_png(grid(torch.stack(columns, 1).flatten(0, 1), len(scales)), folder / "guidance.png")
