"""Reads checkpoint files as data, never as code."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch

from condgen.errors import UsageError
from condgen.files.config import number_of_values
from condgen.files.reading import open_regular

MAX_SETTINGS = 10_000  # numbers and texts among a checkpoint's hyperparameters


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
