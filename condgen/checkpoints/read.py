"""Reads checkpoints safely, without running any code from them."""

import itertools
import json
import pickle
import traceback
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

import condgen
from condgen.errors import UsageError
from condgen.files.config import number_of_values
from condgen.files.reading import open_regular

MAX_SETTINGS = 10_000  # the maximum number of values in the hyperparameters


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint from ``condgen fit`` or a file from ``condgen export --format safetensors`` on the CPU.

    We need to pass ``weights_only=True`` explicitly. Otherwise, an environment variable could make torch run code from
    the file.

    Raises:
        UsageError: If the file is damaged, can't be read, or was not written by this minor version of condgen.
    """
    try:
        with open_regular(path) as file:
            if path.suffix == ".safetensors":
                return read_weights(file.read(), path)
            _check_archive(file, path)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(f"{path} contains more than data, or is not a checkpoint: it was not loaded.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if "can't allocate memory" in str(error):  # torch doesn't have an exception type for this on the CPU
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
        raise UsageError(f"{path} is not a complete checkpoint: use another checkpoint.") from error
    if not _is_condgens(checkpoint):
        raise UsageError(f"{path} is not a checkpoint of condgen: use a checkpoint that `condgen fit` wrote.")
    _check_version(checkpoint["condgen"].get("version"), path)
    return checkpoint


def _check_archive(file: IO[bytes], path: Path) -> None:
    """Checks that this is an uncompressed zip archive, which is what ``torch.save`` writes.

    A compressed archive could use a thousand times as much memory as disk space.
    """
    start = file.read(2)
    if start and start != b"PK":
        raise UsageError(f"{path} contains more than data, or is not a checkpoint: it was not loaded.")
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise UsageError(f"{path} is a compressed archive, not a checkpoint of condgen: it was not loaded.")
    file.seek(0)


def _is_condgens(checkpoint: Any) -> bool:
    """Checks if the checkpoint has everything we need, with the correct types."""
    types = {"state_dict": dict, "hyper_parameters": dict, "loops": dict, "global_step": int, "condgen": dict}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k), kind) for k, kind in types.items()):
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


def _check_version(version: Any, path: Path) -> None:
    """Checks the version of a file. Classes and settings can change their meaning between minor versions of condgen."""
    if str(version).split(".")[:2] != condgen.__version__.split(".")[:2]:
        raise UsageError(
            f"{path} was written by condgen {version}, this is {condgen.__version__}: use that version, or train again."
        )


def read_weights(content: bytes, path: Path) -> dict[str, Any]:
    """Reads a generator exported with ``condgen export --format safetensors``.

    Returns a dictionary with the same keys as a checkpoint, except for the state of the training run.

    Args:
        content: The content of the file.
        path: Path to the file, used in error messages.

    Raises:
        UsageError: If the file is damaged or was not written by this minor version of condgen.
    """
    try:
        state_dict = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")  # the header has the metadata that load() drops
        about = json.loads(content[8 : 8 + size])["__metadata__"]
        data, trained = json.loads(about["datamodule"]), json.loads(about["trained"])
        checkpoint = {
            "state_dict": state_dict,
            "hyper_parameters": json.loads(about["settings"]),
            "datamodule_hyper_parameters": data["init_args"],
            "global_step": trained["steps"],
            "loops": {"fit_loop": {"epoch_progress": {"current": {"started": trained["epochs"]}}}},
            "condgen": {
                "model": about["class"],
                "data": data["class_path"],
                "version": about["condgen"],
                "seed": trained["seed"],
                "train_seconds": float(trained["minutes"] or 0) * 60,
                "train_loss": [],
            },
            "sampler_only": True,
        }
        if not _is_condgens(checkpoint):
            raise TypeError("a setting has the wrong type")
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is not a complete file of `condgen export --format safetensors`.") from error
    _check_version(about["condgen"], path)
    return checkpoint


def check_optimizer_states(states: Sequence[Any], optimizers: Sequence[Optimizer], path: Any) -> None:
    """Checks that the optimizer states in a checkpoint match the optimizers.

    This is needed because torch doesn't check the shape of the moments, so a fused optimizer could write to memory
    outside of the weights.

    Raises:
        UsageError: If the number of optimizers or weights is different, or if a shape doesn't match.
    """
    with raise_as_incompatible(path):
        if len(states) != len(optimizers):
            raise ValueError(f"it has {len(states)} optimizers, this training run has {len(optimizers)}")
        for optimizer, state in zip(optimizers, states, strict=True):
            weights = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
            indices = itertools.chain.from_iterable(group["params"] for group in state["param_groups"])
            shapes = {index: weight.shape for index, weight in zip(indices, weights, strict=True)}
            for index, values in state["state"].items():
                for name, value in values.items():
                    if isinstance(value, Tensor) and value.ndim and value.shape != shapes[index]:
                        raise ValueError(f"{name} has the shape {value.shape}, its weights {shapes[index]}")


@contextmanager
def raise_as_incompatible(path: Any) -> Iterator[None]:
    """Context manager that converts any exception to a UsageError saying that the checkpoint is incompatible.

    If the exception comes from a callback that fails to restore its state, the message says so instead.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        callback = next((o for f in frames if isinstance(o := f.f_locals.get("self"), Callback)), None)
        if callback is not None:
            name = type(callback).__name__
            raise UsageError(
                f"The callback {name} cannot restore its state from {path} ({reason}): leave it out."
            ) from error
        raise UsageError(
            f"{path} is incompatible with this training run ({reason}): use another checkpoint."
        ) from error
