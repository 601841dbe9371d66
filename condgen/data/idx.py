"""Reader for IDX files, the format of MNIST and similar datasets."""

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

# The third byte of the header is the data type, and the fourth one is the number of dimensions.
_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}

MAX_DIMENSIONS = 4
MAX_IDX_BYTES = 2**31  # the largest EMNIST file is 0.5 GB, but a small gzip file could claim to be any size


def read_idx(path: Path) -> Tensor:
    """Reads an IDX file, which is decompressed first if its name ends in ``.gz``.

    Returns:
        A uint8 tensor, or an int32 tensor for QMNIST labels.

    Raises:
        UsageError: If the file isn't an IDX file, doesn't contain uint8 or int32, or its size doesn't match its header.
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
            content = file.read(expected + 1)  # limited since a compressed file could be endless
    except (OSError, EOFError, OverflowError, MemoryError, zlib.error) as error:
        cause = str(error) or type(error).__name__
        raise UsageError(f"{path} cannot be read ({cause}): replace or delete it.") from error
    if len(content) != expected:
        found = f"{len(content):,}" if len(content) < expected else "more"
        raise UsageError(f"{path} has {found} bytes after its header, not {expected:,} for {shape}: replace it.")
    values = np.frombuffer(content, dtype).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))  # copied because torch needs writable memory
