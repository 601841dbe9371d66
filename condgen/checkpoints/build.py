"""Builds generators and data modules from checkpoints after validating the settings and weights."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condgen.checkpoints.classes import imported_class, short_name
from condgen.checkpoints.find import find_checkpoint
from condgen.checkpoints.read import read_checkpoint
from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError
from condgen.generators import ConditionalGenerator
from condgen.generators.base import class_path

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # load_state_dict converts between these
REQUEST_SETTINGS = {"labels", "samples_per_label", "sample_seed", "first_index", "shared_noise"}  # for condgen predict


def load_generator(path: str | Path, **settings: Any) -> ConditionalGenerator:
    """Loads a trained generator. See :func:`condgen.load` for the arguments."""
    found = find_checkpoint(path, root=Path())
    return generator_of(read_checkpoint(found), found, settings)


def generator_of(checkpoint: dict[str, Any], path: Path, settings: Mapping[str, Any]) -> ConditionalGenerator:
    """Builds a generator from a checkpoint and loads its weights. It will be on the CPU and in eval mode.

    Args:
        checkpoint: The content of the checkpoint.
        path: Path to the checkpoint, used in error messages.
        settings: Hyperparameters to override.

    Raises:
        UsageError: If the generator class hasn't been imported, or if there is a problem with ``settings``, such as an
            unknown hyperparameter or a value that doesn't match the weights.
    """
    generator_class = _generator_class(checkpoint, path)
    for name in settings.keys() - checkpoint["hyper_parameters"].keys():
        known = ", ".join(checkpoint["hyper_parameters"])
        raise UsageError(f"{generator_class.__name__} has no setting {name}, but it has {known}.")
    check_settings(checkpoint, path, **settings)
    generator = _build(generator_class, checkpoint, path, settings)
    generator.load_state_dict(checkpoint["state_dict"])
    return generator.eval()


def _generator_class(checkpoint: dict[str, Any], path: Path) -> type[ConditionalGenerator]:
    return imported_class(checkpoint["condgen"]["model"], ConditionalGenerator, path)  # type: ignore[type-abstract]


def _build(
    generator_class: type[ConditionalGenerator], checkpoint: dict[str, Any], path: Path, settings: Mapping[str, Any]
) -> ConditionalGenerator:
    """Builds the generator without loading its weights."""
    try:
        generator = generator_class(**{**checkpoint["hyper_parameters"], **settings})
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        cause = str(error).partition("\n")[0]  # torch sometimes adds a C++ stack trace
        raise UsageError(f"{path} does not match {generator_class.__name__} ({cause}).") from error
    if checkpoint.get("sampler_only"):
        generator.remove_training_parts()
    return generator


def check_settings(checkpoint: dict[str, Any], path: Path, **settings: Any) -> None:
    """Checks that the hyperparameters match the weights in the checkpoint.

    This uses the meta device to avoid allocating the weights, since even a small file can describe a huge network.

    Args:
        checkpoint: The content of the checkpoint.
        path: Path to the checkpoint, used in error messages.
        settings: Hyperparameters to override.

    Raises:
        UsageError: If the hyperparameters don't match the weights.
    """
    with torch.device("meta"):
        check_weights(checkpoint, path, _build(_generator_class(checkpoint, path), checkpoint, path, settings))


def check_weights(checkpoint: dict[str, Any], path: Path, generator: ConditionalGenerator) -> None:
    """Checks that the weights in the checkpoint are finite and match the generator.

    Raises:
        UsageError: If the weights are damaged, if their names or shapes don't match, or if the generator uses a
            different value for a hyperparameter that can't be changed after training.
    """
    needed = {name: _describe(weights) for name, weights in generator.state_dict().items()}
    saved = {name: _describe(weights) for name, weights in checkpoint["state_dict"].items()}
    wrong = sorted((name for name in needed.keys() | saved.keys() if needed.get(name) != saved.get(name)), key=str)
    trained = checkpoint["condgen"]["model"]
    if wrong and class_path(generator) != trained:
        used = short_name(class_path(generator))
        raise UsageError(f"model is {used}, but {path} is a {short_name(trained)}: leave out --model {used}.")
    for name in checkpoint["hyper_parameters"] if wrong else generator.fixed_by_training:
        value = checkpoint["hyper_parameters"].get(name)
        if name in generator.hparams and generator.hparams[name] != value:
            raise UsageError(
                f"model.{name} is {generator.hparams[name]}, but {path} was trained with {value}: leave it out."
            )
    if wrong:
        raise UsageError(
            f"{path} does not match {type(generator).__name__} ({wrong[0]} has the shape {saved.get(wrong[0])}, not "
            f"{needed.get(wrong[0])})."
        )
    for name, weights in checkpoint["state_dict"].items():
        if weights.is_meta or not weights.isfinite().all():
            raise UsageError(f"{path} is damaged: {name} is not finite. Use another checkpoint.")


def _describe(weights: object) -> str | None:
    """Returns the shape of a tensor, as well as its dtype if it is not in :data:`FLOATS`.

    Returns None if this is not a dense tensor that stores all of its elements. For example, a tensor could be expanded
    to a huge size without making the file any larger.
    """
    if not isinstance(weights, Tensor) or weights.layout != torch.strided or weights.is_nested:
        return None
    if weights.untyped_storage().nbytes() < weights.nbytes:
        return None
    return f"{weights.shape}" if weights.dtype in FLOATS else f"{weights.shape} of {weights.dtype}"


def settings(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the seed and the settings of the model and the data in a checkpoint as a config.

    We leave out the settings for ``condgen predict`` and limit the number of workers to the number of CPU cores.
    Otherwise, an untrusted checkpoint could make a command run for a very long time or start a lot of processes.

    Raises:
        UsageError: If the checkpoint uses a class that hasn't been imported.
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


def data_of(checkpoint: dict[str, Any], path: Path) -> ImageDataModule:
    """Builds the data module from a checkpoint. This does not read or download any data yet.

    Raises:
        UsageError: If the class hasn't been imported or doesn't match the settings.
    """
    saved = settings(checkpoint, path).get("data")
    if saved is None:
        raise UsageError(f"{path} does not name the dataset on which it was trained: use another checkpoint.")
    data_class = imported_class(saved["class_path"], ImageDataModule, path)
    try:
        return data_class(**saved["init_args"])
    except (UsageError, TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path} does not match {data_class.__name__} ({error}).") from error


def check_same_images(checkpoint: dict[str, Any], path: Path, data: ImageDataModule) -> None:
    """Checks that a checkpoint was trained on the same classes and image shape as the given dataset.

    Raises:
        UsageError: If they don't match.
    """
    saved = checkpoint["hyper_parameters"]
    if (saved["num_classes"], tuple(saved["image_shape"])) != (data.num_classes, data.image_shape):
        raise UsageError(
            f"{path} generates {saved['num_classes']} classes of {tuple(saved['image_shape'])} images, but "
            f"{data.dataset} has {data.num_classes} of {data.image_shape}: use its own dataset, or train again."
        )
    if checkpoint["condgen"]["data"] is not None:
        trained = data_of(checkpoint, path)
        for label, (old, new) in enumerate(zip(trained.classes, data.classes, strict=True)):
            if old != new:
                raise UsageError(
                    f"{path} was trained on {trained.full_name}, in which label {label} is {old}, but in "
                    f"{data.full_name} it is {new}. Use a dataset with the same classes, or train again."
                )
