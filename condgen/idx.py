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


def read_idx(path: Path) -> Tensor:
    """The tensor in an IDX file (or a gzipped one, ``*.gz``): uint8, or int32 for QMNIST's labels.

    Raises:
        UsageError: the file is not IDX, of another type, or not as long as its header says; the message names it.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read ({error}): put a whole copy in its place, or delete it.") from error
    dtype = _TYPES.get(content[2]) if len(content) >= 4 and content[:2] == b"\0\0" else None
    if dtype is None:
        raise UsageError(f"{path} is not an IDX file (it begins with {content[:4].hex() or 'nothing'}): replace it.")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise UsageError(f"{path} is cut off within its header: put a whole copy in its place.")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise UsageError(
            f"{path} has {len(content):,} bytes where its header {shape} asks for {expected:,}: "
            "put a whole copy in its place."
        )
    values = np.frombuffer(content, dtype, offset=header).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))  # astype copies: torch wants writable memory
