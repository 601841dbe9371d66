"""Checkpoints: written whole, read as data and never as code, and turned into generators again."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import safetensors.torch
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

import condgen
from condgen.data import LabelledImages
from condgen.errors import UsageError
from condgen.files import open_regular, replacing
from condgen.generators import ConditionalGenerator
from condgen.mistakes import number_of_values
from condgen.runs import find_checkpoint

T = TypeVar("T")

REQUEST_SETTINGS = {"labels", "samples_per_label", "sample_seed", "first_index", "shared_noise"}  # of a data module
MAX_SETTINGS = 10_000  # numbers and texts among a checkpoint's hyperparameters
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # weights of one are converted to another


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their place, synced and renamed; read as data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        # The scheduler of StochasticWeightAveraging has a function in its state in torch 2.8.
        parts = {name: _without_functions(checkpoint[name]) for name in {"callbacks", "lr_schedulers"} & {*checkpoint}}
        checkpoint = {**checkpoint, **parts}
        with replacing(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch says so where the file could not be written
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def _without_functions(state: Any) -> Any:
    """The state of callbacks or schedulers without functions, which could not be read as data again."""
    if isinstance(state, list):
        return [_without_functions(value) for value in state]
    if not isinstance(state, dict):
        return state
    return {name: _without_functions(value) for name, value in state.items() if not callable(value)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of one of condgen's checkpoints, its tensors on the CPU.

    ``weights_only=True`` is given explicitly: then no environment variable makes torch run what a file contains.

    Raises:
        UsageError: the file is not a whole checkpoint of condgen's.
    """
    try:
        with open_regular(path) as file:
            _check_archive(file, path)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(f"{path} holds more than data, or is no checkpoint: it was not loaded.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if "can't allocate memory" in str(error):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
        raise UsageError(f"{path} is not a whole checkpoint: take another one.") from error
    if not _is_condgens(checkpoint):
        raise UsageError(f"{path} is not a checkpoint of condgen's: give one that `condgen fit` wrote.")
    return checkpoint


def _check_archive(file: IO[bytes], path: Path) -> None:
    """Raises UsageError unless a file is what ``torch.save`` writes: a zip archive of files that are not compressed.

    Compressed ones could take a thousand times as much memory as the file is large.
    """
    start = file.read(2)
    if start and start != b"PK":
        raise UsageError(f"{path} holds more than data, or is no checkpoint: it was not loaded.")
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise UsageError(f"{path} is a compressed archive, and no checkpoint of condgen's: it was not loaded.")
    file.seek(0)


def read_weights(content: bytes, path: Path) -> dict[str, Any]:
    """A generator's settings and weights, as `condgen export --format safetensors` wrote them.

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
            "sampler_only": True,
        }
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
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
        and number_of_values([checkpoint["hyper_parameters"], data]) <= MAX_SETTINGS
    )


def settings(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings of a checkpoint's generator and data, and its seed, as they stand in a config.

    Which samples ``condgen predict`` generates is not among them, and no more loader workers than this machine has
    cores: a checkpoint from somebody else must not decide how long a command runs or how many processes it starts.

    Raises:
        UsageError: a class of the checkpoint's is none of those that are imported.
    """
    origin = checkpoint["condgen"]
    found: dict[str, Any] = {"seed_everything": origin["seed"]}
    bases: tuple[tuple[str, str, type], ...] = (
        ("model", "hyper_parameters", ConditionalGenerator),
        ("data", "datamodule_hyper_parameters", LabelledImages),
    )
    for name, key, base in bases:
        if origin[name] is not None:
            imported_class(origin[name], base, path)
            init_args = {k: list(v) if isinstance(v, tuple) else v for k, v in checkpoint[key].items()}
            found[name] = {"class_path": origin[name], "init_args": init_args}
    data = found.get("data", {}).get("init_args", {})
    for setting in REQUEST_SETTINGS & data.keys():
        del data[setting]
    if isinstance(data.get("num_workers"), int):
        data["num_workers"] = min(data["num_workers"], os.cpu_count() or 1)
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


def known_names(base: type[T]) -> set[str]:
    """The names by which the command line knows the subclasses of ``base`` that have been imported."""
    found = imported_families(base)
    return {*found, *(f"{family.__module__}.{family.__qualname__}" for family in found.values())}


def imported_class(class_path: str, base: type[T], path: Path) -> type[T]:
    """The subclass of ``base`` with this full name, among those already imported: nothing is on a checkpoint's word.

    Raises:
        UsageError: there is none.
    """
    for found in imported_classes(base):
        if f"{found.__module__}.{found.__qualname__}" == class_path:
            return found
    raise UsageError(
        f"{path} is of the class {class_path}, which condgen does not know. If you trust it, add "
        f"--import {class_path.rpartition('.')[0]}, or import it in Python first."
    )


def load_generator(path: str | Path, **settings: Any) -> ConditionalGenerator:
    """See :func:`condgen.load`."""
    found = find_checkpoint(path, root=Path())
    if found.suffix != ".safetensors":
        return generator_of(read_checkpoint(found), found, settings)
    try:
        with open_regular(found) as file:
            content = file.read()
    except OSError as error:
        raise UsageError(f"{found} cannot be read ({error.strerror}): allow reading, or give another file.") from error
    return generator_of(read_weights(content, found), found, settings)


def generator_of(checkpoint: dict[str, Any], found: Path, settings: Mapping[str, Any]) -> ConditionalGenerator:
    """The generator of a checkpoint, on the CPU and in eval mode; see :func:`condgen.load`."""
    generator_class = imported_class(checkpoint["condgen"]["model"], ConditionalGenerator, found)  # type: ignore[type-abstract]
    for name in settings.keys() - checkpoint["hyper_parameters"].keys():
        known = ", ".join(checkpoint["hyper_parameters"])
        raise UsageError(f"{generator_class.__name__} has no setting {name}, but {known}.")
    check_settings(checkpoint, found, **settings)
    generator = _build(generator_class, checkpoint, found, settings)
    generator.load_state_dict(checkpoint["state_dict"])
    return generator.eval()


def _build(
    generator_class: type[ConditionalGenerator], checkpoint: dict[str, Any], found: Path, settings: Mapping[str, Any]
) -> ConditionalGenerator:
    """A checkpoint's generator before its weights are loaded."""
    try:
        generator = generator_class(**{**checkpoint["hyper_parameters"], **settings})
    except UsageError as error:
        raise UsageError(f"{found}: {error}") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        cause = str(error).partition("\n")[0]  # torch may add a stack of C++ functions
        raise UsageError(f"{found} does not fit {generator_class.__name__} ({cause}){_version(checkpoint)}.") from error
    if checkpoint.get("sampler_only"):
        generator.remove_training_parts()
    return generator


def check_settings(checkpoint: dict[str, Any], found: Path, **settings: Any) -> None:
    """Raises UsageError if a checkpoint's settings, some of them replaced, are not those of its weights.

    It takes no memory for them: the settings of a small file may ask for a huge network.
    """
    generator_class = imported_class(checkpoint["condgen"]["model"], ConditionalGenerator, found)  # type: ignore[type-abstract]
    check_types(generator_class, {**checkpoint["hyper_parameters"], **settings}, found)
    with torch.device("meta"):
        check_fits(checkpoint, found, _build(generator_class, checkpoint, found, settings))


def check_types(generator_class: type[ConditionalGenerator], settings: Mapping[str, Any], path: Path) -> None:
    """Raises UsageError if a setting is not of the type that the class annotates.

    jsonargparse checks more types, but it also imports the classes that a value names: not for values from a file.
    """
    try:
        annotations = get_type_hints(generator_class.__init__)
    except NameError:  # a class that names a type which only a type checker imports
        return
    for name, annotation in annotations.items():
        if name in settings and not _has_type(settings[name], annotation):
            wanted = annotation.__name__ if isinstance(annotation, type) else annotation
            raise UsageError(f"{path}: model.{name} is {settings[name]!r:.80}: give {wanted}.")


def _has_type(value: object, annotation: Any) -> bool:
    """Whether a value has an annotated type; True for all types but numbers, text, choices and sequences of these."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return value in arguments
    if origin in (Sequence, list):
        return isinstance(value, (list, tuple)) and all(_has_type(each, arguments[0]) for each in value)
    if annotation not in (int, float, str, bool):
        return True
    kinds = (int, float) if annotation is float else annotation
    return isinstance(value, kinds) and isinstance(value, bool) == (annotation is bool)


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
    """Raises UsageError if a checkpoint's weights are damaged, or are those of a generator with other settings."""
    needed = {name: _shape(weights) for name, weights in generator.state_dict().items()}
    saved = {name: _shape(weights) for name, weights in checkpoint["state_dict"].items()}
    wrong = sorted((name for name in needed.keys() | saved.keys() if needed.get(name) != saved.get(name)), key=str)
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


def check_same_images(checkpoint: dict[str, Any], path: Path, data: LabelledImages) -> None:
    """Raises UsageError where a checkpoint's generator draws other classes or images than a data set has."""
    drawn = checkpoint["hyper_parameters"]
    if (drawn["num_classes"], tuple(drawn["image_shape"])) != (data.num_classes, data.image_shape):
        raise UsageError(
            f"{path} draws {drawn['num_classes']} classes of {tuple(drawn['image_shape'])} images, but "
            f"{data.dataset} has {data.num_classes} of {data.image_shape}: take its own data set, or train anew."
        )
