"""The settings that a checkpoint holds: of its generator and of its data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from condgen.checkpoints.classes import imported_class
from condgen.checkpoints.fit import _version
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.generators import ConditionalGenerator

REQUEST_SETTINGS = {"labels", "samples_per_label", "sample_seed", "first_index", "shared_noise"}  # of a data module


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
        ("data", "datamodule_hyper_parameters", ImageDataModule),
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


def data_of(checkpoint: dict[str, Any], path: Path) -> ImageDataModule:
    """The data module with whose settings a checkpoint was trained; nothing is read or downloaded yet.

    Raises:
        UsageError: its class is none of those that are imported, or its settings do not fit it.
    """
    saved = settings(checkpoint, path).get("data")
    if saved is None:
        raise UsageError(f"{path} does not say on which data it was trained: take another checkpoint.")
    data_class = imported_class(saved["class_path"], ImageDataModule, path)
    try:
        return data_class(**saved["init_args"])
    except (UsageError, TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path} does not fit {data_class.__name__} ({error}){_version(checkpoint)}.") from error


def check_same_images(checkpoint: dict[str, Any], path: Path, data: ImageDataModule) -> None:
    """Raises UsageError where a checkpoint's generator draws other classes or images than a data set has."""
    drawn = checkpoint["hyper_parameters"]
    if (drawn["num_classes"], tuple(drawn["image_shape"])) != (data.num_classes, data.image_shape):
        raise UsageError(
            f"{path} draws {drawn['num_classes']} classes of {tuple(drawn['image_shape'])} images, but "
            f"{data.dataset} has {data.num_classes} of {data.image_shape}: take its own data set, or train anew."
        )
