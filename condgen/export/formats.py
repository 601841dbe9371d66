"""Defines the export formats. Each one can also be loaded back to make sure that the generated images match."""

import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from condgen.checkpoints.build import generator_of
from condgen.checkpoints.read import read_weights
from condgen.errors import UsageError
from condgen.generators import ConditionalGenerator

Format = Literal["onnx", "pt2", "safetensors"]
Generate = Callable[[Tensor, Tensor], Tensor]  # (labels, noise) -> images


class ExportableGenerator(nn.Module):
    """Wraps a generator so that ``forward`` can be exported.

    ONNX doesn't support assertions, so invalid labels or a mismatched batch size deliberately cause an out-of-range
    index, which every runtime reports as an error.
    """

    def __init__(self, generator: ConditionalGenerator) -> None:
        super().__init__()
        self.generator = generator
        self.labels: Tensor
        self.register_buffer("labels", torch.arange(generator.num_classes))

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        known = (labels >= 0) & (labels < len(self.labels))
        labels = self.labels.index_select(0, torch.where(known, labels, len(self.labels)))
        # 0, 1, 2, … Don't use arange here, it makes the exporter assume that labels and noise have the same length.
        label_rows = torch.ones_like(labels).cumsum(0) - 1
        noise_rows = torch.ones_like(noise.flatten(1)[:, 0], dtype=torch.int64).cumsum(0) - 1
        return self.generator(labels.index_select(0, noise_rows), noise.index_select(0, label_rows))


@torch.no_grad()
def exported_program(generator: ConditionalGenerator) -> torch.export.ExportedProgram:
    """Traces the generator using ``torch.export`` with a dynamic batch size."""
    example = (torch.zeros(2, dtype=torch.int64), generator.sample_noise(0, range(2)))
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        ExportableGenerator(generator).eval(), example, dynamic_shapes=({0: batch}, {0: batch})
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it contains local paths
    return program


def to_onnx(generator: ConditionalGenerator, metadata: dict[str, str]) -> bytes:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"ONNX needs {error.name}: pip install onnx onnxscript onnxruntime.") from error
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it only warns about skipped optimizations
    converted = torch.onnx.export(
        exported_program(generator), dynamo=True, verbose=False, input_names=["labels", "noise"],
        output_names=["images"],
    )  # fmt: skip
    assert converted is not None
    model = converted.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # contains local paths
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # intermediate shapes, which use a different name for the batch dimension
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def from_onnx(content: bytes) -> Generate:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda labels, noise: torch.from_numpy(
        session.run(None, {"labels": labels.numpy(), "noise": noise.numpy()})[0]
    )


def to_pt2(generator: ConditionalGenerator, metadata: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor")  # about channels-last weights, which our tests cover
        torch.export.save(exported_program(generator), content, extra_files={"metadata.json": json.dumps(metadata)})
    return content.getvalue()


def from_pt2(content: bytes) -> Generate:
    return torch.export.load(io.BytesIO(content)).module()


def to_safetensors(
    generator: ConditionalGenerator, metadata: dict[str, str], dtype: torch.dtype = torch.float32
) -> bytes:
    weights = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in generator.state_dict().items()
    }
    return safetensors.torch.save(weights, metadata)


def round_weights(generator: ConditionalGenerator) -> None:
    """Rounds the weights to float16 in-place, but keeps them as float32."""
    for weights in generator.state_dict().values():
        if weights.is_floating_point():
            weights.copy_(weights.half())


def from_safetensors(content: bytes) -> Generate:
    path = Path("generator.safetensors")
    return generator_of(read_weights(content, path), path, {}).generate


FORMATS: dict[Format, tuple[Callable[[ConditionalGenerator, dict[str, str]], bytes], Callable[[bytes], Generate]]] = {
    "onnx": (to_onnx, from_onnx),
    "pt2": (to_pt2, from_pt2),
    "safetensors": (to_safetensors, from_safetensors),
}


@torch.no_grad()
def largest_difference(generator: ConditionalGenerator, generate: Generate) -> float:
    """Checks how closely an exported generator matches the original.

    Both are run on a single label, and on a batch that contains every label.

    Args:
        generator: The original generator.
        generate: Calls the exported generator.

    Returns:
        The maximum absolute difference between pixels in [0, 1], or infinity if the shapes don't match.
    """
    differences = []
    for number in (1, 2 * generator.num_classes + 1):
        labels = torch.arange(number) % generator.num_classes
        noise = generator.sample_noise(0, range(number))
        images = generate(labels, noise)
        if images.shape != (number, *generator.image_shape):
            return float("inf")
        differences.append((images - generator.generate(labels, noise)).abs().max())
    return float(torch.stack(differences).max())
