"""The ``condgen export`` command, which converts a trained generator for use outside of condgen."""

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

import condgen
from condgen.checkpoints.build import data_of, generator_of
from condgen.checkpoints.find import find_checkpoint, output_directory, run_of
from condgen.checkpoints.read import read_checkpoint
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.evaluation.report import about_checkpoint
from condgen.export.formats import FORMATS, Format, largest_difference, round_weights, to_safetensors
from condgen.export.model_card import model_card
from condgen.files.atomic import atomic_write, say_replacing
from condgen.files.images import png
from condgen.generators.base import class_path
from condgen.sampling.generate import sample_grid

TOLERANCE = 0.5 / 255  # half a step of an 8-bit pixel


def export(
    ckpt_path: str = "last",
    format: Format = "onnx",
    output: str | None = None,
    half: bool = False,
    model: dict[str, Any] | None = None,
) -> None:
    """Exports a trained generator, verifies that it still generates the same images, and writes a model card.

    Args:
        ckpt_path: The checkpoint to export. Either last or best (of the newest run), mnist (which comes with condgen),
            a checkpoint file or a run directory.
        format: The file format. Use onnx for any ONNX runtime, pt2 for PyTorch without condgen installed, or
            safetensors for condgen.load.
        output: Where to save generator.onnx, generator.json, README.md and grid.png. Defaults to export/onnx in the run
            directory.
        half: Whether to store the weights as float16, which halves the size of the file. Only for safetensors.
        model: Hyperparameters to override for sampling, e.g. --model.guidance 1.4.
    """
    if half and format != "safetensors":
        raise UsageError(f"half is true, but format is {format}. Use --format safetensors.")
    path = find_checkpoint(ckpt_path, Path())
    run = output_directory(path)
    if output is None and run is None:
        raise UsageError(f"{path} is not in a run directory: give a folder as --output.")
    checkpoint = read_checkpoint(path)
    generator = generator_of(checkpoint, path, model or {}).requires_grad_(False)
    generator.remove_training_parts()
    if half:
        round_weights(generator)
    data = data_of(checkpoint, path)
    folder = Path(output) if output else run / "export" / format  # type: ignore[operator]
    card, file = folder / "README.md", folder / f"generator.{format}"
    is_ours = card.is_file() and "library_name: condgen" in card.read_text(errors="replace")
    for existing in (card, file, folder / "generator.json", folder / "grid.png"):
        if os.path.lexists(existing) and not is_ours:
            raise UsageError(f"{existing} is not from an export of condgen: give another folder as --output.")
    settings = "".join(f" --model.{name} {json.dumps(value)}" for name, value in (model or {}).items())
    origin = about_checkpoint(checkpoint, path)
    metadata = {
        "family": type(generator).__name__,
        "class": class_path(generator),
        "labels": list(data.classes),
        "image_shape": generator.image_shape,
        "noise_shape": generator.noise_shape,
        "noise_distribution": generator.noise_distribution,
        "settings": dict(generator.hparams),
        "data": data.full_name,
        "trained": {name: origin[name] for name in ("epochs", "steps", "seed")}
        | {"minutes": origin["training_minutes"], "source": data.hparams["source"]},
        "datamodule": {"class_path": class_path(data), "init_args": _shared_settings(data)},
        "command": f"condgen export --ckpt_path {ckpt_path} --format {format}{' --half true' * half}{settings}",
        "condgen": condgen.__version__,
    }
    print(f"Exporting {type(generator).__name__} from {path}", file=sys.stderr, flush=True)
    grid = sample_grid(generator, range(generator.num_classes), 10, seed=0)
    to_format, from_format = FORMATS[format]
    if half:
        to_format = functools.partial(to_safetensors, dtype=torch.float16)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    content = to_format(generator, texts)  # all formats only support text as metadata
    difference = largest_difference(generator, from_format(content))
    if not difference <= TOLERANCE:  # not `>`, so that NaN is caught as well
        raise UsageError(
            f"Images from {format} differ from PyTorch's by up to {difference:.3g} (pixels in [0, 1]), so nothing is "
            "written."
        )
    files = {
        # written first, since it is how we recognize our own exports later
        card: model_card(generator, data, origin, metadata, format, run_of(path)).encode(),
        file: content,
        folder / "generator.json": json.dumps(metadata, indent=2).encode(),
        folder / "grid.png": png(grid),
    }
    say_replacing(*files)
    for name, written in files.items():
        with atomic_write(name) as replaced:
            replaced.write(written)
    rounded = " with the same rounded weights" if half else ""
    print(f"Largest difference from PyTorch{rounded}: {difference:.1e} (pixels in [0, 1])")
    print(f"Exported: {file} ({len(content) / 1e6:.1f} MB), with generator.json, README.md and grid.png beside it")


def _shared_settings(data: ImageDataModule) -> dict[str, Any]:
    """Returns the settings that identify the dataset, without local paths."""
    shared = {name: data.hparams[name] for name in ("source", "classes", *data.image_settings) if name in data.hparams}
    return shared | {"root": "data"} if "root" in shared else shared
