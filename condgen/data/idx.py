"""The IDX format, in which MNIST and its kin are published."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condgen.errors import UsageError

# The third byte of the magic number names the type; the fourth is the number of dimensions.
_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}

MAX_DIMENSIONS = 4  # of a file of labelled images
MAX_BYTES = 2**31  # the largest file of EMNIST has 0.5 GB; a small gzip file could ask for any size


def read_idx(path: Path) -> Tensor:
    """The tensor in an IDX file (or a gzipped one, ``*.gz``): uint8, or int32 for QMNIST's labels.

    Raises:
        UsageError: the file is not IDX, of another type, or not as long as its header says; the message names it.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(4)
            dtype = (
                _TYPES.get(start[2])
                if len(start) == 4 and start[:2] == b"\0\0" and start[3] <= MAX_DIMENSIONS
                else None
            )
            if dtype is None:
                raise UsageError(f"{path} is not an IDX file (it begins with {start.hex() or 'nothing'}): replace it.")
            sizes = file.read(4 * start[3])
            if len(sizes) < 4 * start[3]:
                raise UsageError(f"{path} is cut off within its header: put a whole copy in its place.")
            shape = struct.unpack(f">{start[3]}I", sizes)
            expected = math.prod(shape) * dtype.itemsize
            if expected > MAX_BYTES:
                raise UsageError(f"{path} is to hold {shape}, which is more than {MAX_BYTES:,} bytes: replace it.")
            content = file.read(expected + 1)  # never more than that, whatever a compressed file would give
    except (OSError, EOFError, OverflowError, MemoryError, zlib.error) as error:
        cause = str(error) or type(error).__name__
        raise UsageError(f"{path} cannot be read ({cause}): put a whole copy in its place, or delete it.") from error
    if len(content) != expected:
        header = 4 + len(sizes)
        found = f"{header + len(content):,}" if len(content) < expected else "more"
        raise UsageError(
            f"{path} has {found} bytes where its header {shape} asks for {header + expected:,}: "
            "put a whole copy in its place."
        )
    values = np.frombuffer(content, dtype).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))  # astype copies: torch wants writable memory
