"""Checkpoints: written whole, read as data and never as code, and turned into generators again."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

import condgen
from condgen.data import LabelledImages
from condgen.errors import UsageError
from condgen.files import replacing
from condgen.generators import ConditionalGenerator
from condgen.runs import find_checkpoint

T = TypeVar("T")


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their place, synced and renamed; read as data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replacing(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch says so where the file could not be written
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of one of condgen's checkpoints, its tensors on the CPU.

    ``weights_only=True`` is given explicitly: then no environment variable makes torch run what a file contains.

    Raises:
        UsageError: the file is not a whole checkpoint of condgen's.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(f"{path} holds more than data, or is no checkpoint: it was not loaded.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is not a whole checkpoint: take another one.") from error
    if not _is_condgens(checkpoint):
        raise UsageError(f"{path} is not a checkpoint of condgen's: give one that `condgen fit` wrote.")
    return checkpoint


def read_weights(content: bytes, path: Path) -> dict[str, Any]:
    """What `condgen export --format safetensors` wrote, as far as a generator is built of it.

    Raises:
        UsageError: it is cut, or another program's.
    """
    try:
        state_dict = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")  # of the header, whose metadata safetensors.torch.load leaves
        about = json.loads(content[8 : 8 + size])["__metadata__"]
        hyper_parameters, version = json.loads(about["settings"]), about["condgen"]
        if not isinstance(hyper_parameters, dict):
            raise TypeError("its settings are none")
        return {
            "state_dict": state_dict,
            "hyper_parameters": hyper_parameters,
            "condgen": {"model": about["class"], "version": version},
        }
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a whole file of `condgen export --format safetensors`.") from error


def _is_condgens(checkpoint: Any) -> bool:
    """Whether what condgen itself uses of a checkpoint is there, and of its kind."""
    kinds = {"state_dict": dict, "hyper_parameters": dict, "loops": dict, "global_step": int, "condgen": dict}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k), kind) for k, kind in kinds.items()):
        return False
    origin, data = checkpoint["condgen"], checkpoint.get("datamodule_hyper_parameters")
    return (
        all(isinstance(origin.get(name), kind) for name, kind in (("seed", int), ("model", str), ("train_loss", list)))
        and (origin.get("data") is None or (isinstance(origin["data"], str) and isinstance(data, dict)))
        and isinstance(origin.get("first_open_step", 0), int)
        and isinstance(origin.get("train_seconds", 0.0), float)
        and all(isinstance(name, str) for name in [*checkpoint["hyper_parameters"], *(data or {})])
    )


def settings(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings of a checkpoint's generator and data, and its seed, as they stand in a config.

    Raises:
        UsageError: a class of the checkpoint's is none of those that are imported.
    """
    origin = checkpoint["condgen"]
    found = {"seed_everything": origin["seed"]}
    bases: tuple[tuple[str, str, type], ...] = (
        ("model", "hyper_parameters", ConditionalGenerator),
        ("data", "datamodule_hyper_parameters", LabelledImages),
    )
    for name, key, base in bases:
        if origin[name] is not None:
            imported_class(origin[name], base, path)
            init_args = {k: list(v) if isinstance(v, tuple) else v for k, v in checkpoint[key].items()}
            found[name] = {"class_path": origin[name], "init_args": init_args}
    return found


def imported_classes(base: type[T]) -> list[type[T]]:
    """The subclasses of ``base`` that have been imported so far."""
    found, waiting = list[type[T]](), [base]
    while waiting:
        new = [subclass for subclass in waiting.pop().__subclasses__() if subclass not in found]
        found += new
        waiting += new
    return found


def imported_families(base: type[T]) -> dict[str, type[T]]:
    """The classes among :func:`imported_classes` of which there can be instances, by their short names."""
    return {found.__name__: found for found in imported_classes(base) if not inspect.isabstract(found)}


def imported_class(class_path: str, base: type[T], path: Path) -> type[T]:
    """The subclass of ``base`` with this full name, among those already imported: nothing is on a checkpoint's word.

    Raises:
        UsageError: there is none.
    """
    for found in imported_classes(base):
        if f"{found.__module__}.{found.__qualname__}" == class_path:
            return found
    raise UsageError(
        f"{path} is of the class {class_path}, which condgen does not know: "
        "name it as --model or --data, or import it in Python first."
    )


def load_generator(path: str | Path, **settings: Any) -> ConditionalGenerator:
    """See :func:`condgen.load`."""
    found = find_checkpoint(path, root=Path())
    checkpoint = read_weights(found.read_bytes(), found) if found.suffix == ".safetensors" else read_checkpoint(found)
    return generator_of(checkpoint, found, settings)


def generator_of(checkpoint: dict[str, Any], found: Path, settings: Mapping[str, Any]) -> ConditionalGenerator:
    """The generator of a checkpoint, on the CPU and in eval mode; see :func:`condgen.load`."""
    generator_class = imported_class(checkpoint["condgen"]["model"], ConditionalGenerator, found)  # type: ignore[type-abstract]
    for name in settings.keys() - checkpoint["hyper_parameters"].keys():
        known = ", ".join(checkpoint["hyper_parameters"])
        raise UsageError(f"{generator_class.__name__} has no setting {name}, but {known}.")
    try:
        generator = generator_class(**{**checkpoint["hyper_parameters"], **settings})
    except UsageError as error:
        raise UsageError(f"{found}: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{found} does not fit {generator_class.__name__} ({error}){_version(checkpoint)}.") from error
    check_fits(checkpoint, found, generator)
    generator.load_state_dict(checkpoint["state_dict"])
    return generator.eval()


def data_of(checkpoint: dict[str, Any], path: Path) -> LabelledImages:
    """The data module with whose settings a checkpoint was trained; nothing is read or downloaded yet.

    Raises:
        UsageError: its class is none of those that are imported, or its settings do not fit it.
    """
    saved = settings(checkpoint, path).get("data")
    if saved is None:
        raise UsageError(f"{path} does not say on which data it was trained: take another checkpoint.")
    data_class = imported_class(saved["class_path"], LabelledImages, path)
    try:
        return data_class(**saved["init_args"])
    except (UsageError, TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path} does not fit {data_class.__name__} ({error}){_version(checkpoint)}.") from error


def check_fits(checkpoint: dict[str, Any], path: Path, generator: ConditionalGenerator) -> None:
    """Raises UsageError where a checkpoint's weights are not for a generator, as its settings differ."""
    shapes = {name: tensor.shape for name, tensor in generator.state_dict().items()}
    saved = {name: getattr(tensor, "shape", None) for name, tensor in checkpoint["state_dict"].items()}
    wrong = sorted(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name))
    bound = checkpoint["hyper_parameters"] if wrong else generator.bound_by_training
    for name in bound:
        value = checkpoint["hyper_parameters"].get(name)
        if name in generator.hparams and generator.hparams[name] != value:
            raise UsageError(
                f"model.{name} is {generator.hparams[name]}, but {path} was trained with {value}: leave it out."
            )
    if wrong:
        raise UsageError(
            f"{path} does not fit {type(generator).__name__} ({wrong[0]} has the shape {saved.get(wrong[0])}, not "
            f"{shapes.get(wrong[0])}){_version(checkpoint)}."
        )


def _version(checkpoint: dict[str, Any]) -> str:
    """Of another condgen, which explains much."""
    version = checkpoint["condgen"].get("version")
    return f": it was written by condgen {version}, this is {condgen.__version__}" * (version != condgen.__version__)


def check_same_images(checkpoint: dict[str, Any], path: Path, data: LabelledImages) -> None:
    """Raises UsageError where a checkpoint's generator draws other classes or images than a data set has."""
    drawn = checkpoint["hyper_parameters"]
    if (drawn["num_classes"], tuple(drawn["image_shape"])) != (data.num_classes, data.image_shape):
        raise UsageError(
            f"{path} draws {drawn['num_classes']} classes of {tuple(drawn['image_shape'])} images, but "
            f"{data.dataset} has {data.num_classes} of {data.image_shape}: take its own data set, or train anew."
        )
