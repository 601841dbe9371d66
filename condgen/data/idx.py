"""The IDX file format of MNIST and similar data sets."""

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

# The third byte of a file is the data type. The fourth byte is the number of dimensions.
_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}

MAX_DIMENSIONS = 4
MAX_IDX_BYTES = 2**31  # the largest file of EMNIST has 0.5 GB. A small gzip file could claim any size.


def read_idx(path: Path) -> Tensor:
    """Reads an IDX file.

    Args:
        path: Path to the file. A file whose name ends in ``.gz`` is decompressed.

    Returns:
        A uint8 tensor, or an int32 tensor for the labels of QMNIST.

    Raises:
        UsageError: If the file is not an IDX file, contains neither uint8 nor int32, or has a size that does not match
            its header.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES or start[3] > MAX_DIMENSIONS:
                raise UsageError(f"{path} is not an IDX file (it begins with {start.hex() or 'nothing'}): replace it.")
            dtype = _TYPES[start[2]]
            sizes = file.read(4 * start[3])
            if len(sizes) < 4 * start[3]:
                raise UsageError(f"{path} is cut off in its header: replace it.")
            shape = struct.unpack(f">{start[3]}I", sizes)
            expected = math.prod(shape) * dtype.itemsize
            if expected > MAX_IDX_BYTES:
                raise UsageError(f"{path} claims the shape {shape}, more than {MAX_IDX_BYTES:,} bytes: replace it.")
            content = file.read(expected + 1)  # limited because a compressed file could be endless
    except (OSError, EOFError, OverflowError, MemoryError, zlib.error) as error:
        cause = str(error) or type(error).__name__
        raise UsageError(f"{path} cannot be read ({cause}): replace or delete it.") from error
    if len(content) != expected:
        found = f"{len(content):,}" if len(content) < expected else "more"
        raise UsageError(f"{path} has {found} bytes after its header, not {expected:,} for {shape}: replace it.")
    values = np.frombuffer(content, dtype).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))  # a copy, because torch needs writable memory
