"""Generators for other programs: for ONNX runtimes, for PyTorch without condgen, and weights for ``condgen.load``."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

import condgen
from condgen.checkpoints.build import generator_of
from condgen.checkpoints.find import find_checkpoint, run_of
from condgen.checkpoints.read import read_checkpoint, read_weights
from condgen.checkpoints.settings import data_of
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.evaluation.report import about_checkpoint
from condgen.export.model_card import model_card
from condgen.files.atomic import atomic_write
from condgen.files.images import png
from condgen.generators import ConditionalGenerator
from condgen.generators.base import class_path
from condgen.sampling.generate import sample_grid

Format = Literal["onnx", "pt2", "safetensors"]
Draw = Callable[[Tensor, Tensor], Tensor]  # labels (N,) and noise (N, *noise_shape) to images (N, C, H, W)

TOLERANCE = 0.5 / 255  # half a level of an 8-bit pixel


def export(
    ckpt_path: str = "last",
    format: Format = "onnx",
    output: str | None = None,
    model: dict[str, Any] | None = None,
) -> None:
    """Writes a generator for other programs, checks that it draws the same images there, and describes it in a card.

    Args:
        ckpt_path: last or best of the newest run, a checkpoint or a run directory.
        format: onnx for any ONNX runtime, pt2 for PyTorch without condgen, safetensors for condgen.load.
        output: the folder for generator.onnx, generator.json, README.md and grid.png; export/onnx in the run directory
            if not given.
        model: settings of the family that are to be others than in training, as --model.guidance 1.4.
    """
    path = find_checkpoint(ckpt_path, Path())
    run = run_of(path)
    if output is None and run is None:
        raise UsageError(f"{path} lies in no run directory: say where to as --output.")
    checkpoint = read_checkpoint(path)
    generator = generator_of(checkpoint, path, model or {}).requires_grad_(False)
    generator.remove_training_parts()
    data = data_of(checkpoint, path)
    folder = Path(output) if output else run / "export" / format  # type: ignore[operator]
    card, file = folder / "README.md", folder / f"generator.{format}"
    is_ours = card.is_file() and "library_name: condgen" in card.read_text(errors="replace")
    for existing in (card, file, folder / "generator.json", folder / "grid.png"):
        if os.path.lexists(existing) and not is_ours:
            raise UsageError(f"{existing} is not from an export of condgen: give another folder as --output.")
    settings = "".join(f" --model.{name} {json.dumps(value)}" for name, value in (model or {}).items())
    origin = about_checkpoint(checkpoint, path)
    about = metadata(generator, data, origin, f"condgen export --ckpt_path {ckpt_path} --format {format}{settings}")
    print(f"Exporting {type(generator).__name__} from {path}", file=sys.stderr, flush=True)
    grid = sample_grid(generator, range(generator.num_classes), 10, seed=0)
    write, read = FORMATS[format]
    content = write(generator, as_text(about))
    difference = largest_difference(generator, read(content))
    if not difference <= TOLERANCE:
        raise UsageError(
            f"{format} generates other images than PyTorch, by up to {difference:.3g} of 1: nothing is written."
        )
    files = {
        card: model_card(generator, data, origin, about, format, run).encode(),  # first: it marks the folder as ours
        file: content,
        folder / "generator.json": json.dumps(about, indent=2).encode(),
        folder / "grid.png": png(grid),
    }
    for name, written in files.items():
        with atomic_write(name) as replaced:
            replaced.write(written)
    print(f"Largest difference to PyTorch: {difference:.1e} of 1")
    print(f"Exported: {file} ({len(content) / 1e6:.1f} MB), with generator.json, README.md and grid.png beside it")


def metadata(
    generator: ConditionalGenerator, data: ImageDataModule, origin: dict[str, Any], command: str
) -> dict[str, Any]:
    """What somebody needs to know to generate images with an exported generator."""
    trained = {name: origin[name] for name in ("epochs", "steps", "seed")}
    return {
        "family": type(generator).__name__,
        "class": class_path(generator),
        "labels": list(data.classes),
        "image_shape": generator.image_shape,
        "noise_shape": generator.noise_shape,
        "noise_distribution": generator.noise_distribution,
        "settings": dict(generator.hparams),
        "data": data.full_name,
        "trained": {**trained, "source": data.hparams["source"]},
        "command": command,
        "condgen": condgen.__version__,
    }


def as_text(about: dict[str, Any]) -> dict[str, str]:
    """Metadata as text, because the formats store nothing else: what is no text becomes JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}


@torch.no_grad()
def largest_difference(generator: ConditionalGenerator, draw: Draw) -> float:
    """How far apart pixels are that ``draw`` and the generator draw: of one image, and of two of each label and one."""
    differences = []
    for number in (1, 2 * generator.num_classes + 1):
        labels = torch.arange(number) % generator.num_classes
        noise = generator.draw_noise(0, range(number))
        drawn = draw(labels, noise)
        if drawn.shape != (number, *generator.image_shape):
            return float("inf")
        differences.append((drawn - generator.generate(labels, noise)).abs().max())
    return float(torch.stack(differences).max())


# The formats: a file's content from a generator, and what draws from that content.


class ExportedGenerator(nn.Module):
    """A generator's ``generate`` as a module that exporters take, with its check of labels and noise.

    ONNX has no assertions. Instead, a mistake becomes an index out of range, at which runtimes fail.
    """

    def __init__(self, generator: ConditionalGenerator) -> None:
        super().__init__()
        self.generator = generator
        self.labels: Tensor
        self.register_buffer("labels", torch.arange(generator.num_classes))

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        known = (labels >= 0) & (labels < len(self.labels))
        labels = self.labels.index_select(0, torch.where(known, labels, len(self.labels)))
        label_rows = torch.ones_like(labels).cumsum(0) - 1  # 0, 1, 2, ...; arange would use one length for both
        noise_rows = torch.ones_like(noise.flatten(1)[:, 0], dtype=torch.int64).cumsum(0) - 1
        return self.generator(labels.index_select(0, noise_rows), noise.index_select(0, label_rows))


def program(generator: ConditionalGenerator) -> torch.export.ExportedProgram:
    """The operations of ``generate`` for any number of images."""
    example = (torch.zeros(2, dtype=torch.int64), generator.draw_noise(0, range(2)))
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        found = torch.export.export(
            ExportedGenerator(generator).eval(), example, dynamic_shapes=({0: batch}, {0: batch})
        )
    for node in found.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of this machine
    return found


def to_onnx(generator: ConditionalGenerator, about: dict[str, str]) -> bytes:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"ONNX needs {error.name}: pip install onnx onnxscript onnxruntime.") from error
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it speaks of what it leaves as it is
    converted = torch.onnx.export(
        program(generator), dynamo=True, verbose=False, input_names=["labels", "noise"], output_names=["images"]
    )
    assert converted is not None
    proto = converted.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # whose operation it was in PyTorch
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]  # shapes in between, which call the batch by another name
    onnx.helper.set_model_props(proto, about)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def from_onnx(content: bytes) -> Draw:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda labels, noise: torch.from_numpy(
        session.run(None, {"labels": labels.numpy(), "noise": noise.numpy()})[0]
    )


def to_pt2(generator: ConditionalGenerator, about: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor")  # it knows no weights laid out channels last
        torch.export.save(program(generator), content, extra_files={"metadata.json": json.dumps(about)})
    return content.getvalue()


def from_pt2(content: bytes) -> Draw:
    return torch.export.load(io.BytesIO(content)).module()


def to_safetensors(generator: ConditionalGenerator, about: dict[str, str]) -> bytes:
    weights = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
    return safetensors.torch.save(weights, about)


def from_safetensors(content: bytes) -> Draw:
    path = Path("generator.safetensors")
    return generator_of(read_weights(content, path), path, {}).generate


FORMATS: dict[Format, tuple[Callable[[ConditionalGenerator, dict[str, str]], bytes], Callable[[bytes], Draw]]] = {
    "onnx": (to_onnx, from_onnx),
    "pt2": (to_pt2, from_pt2),
    "safetensors": (to_safetensors, from_safetensors),
}
