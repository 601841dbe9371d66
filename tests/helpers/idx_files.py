"""Writes IDX files, the format of MNIST."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write `array` as an IDX file: uint8 as bytes, any other dtype as big-endian 32-bit integers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code, dtype = (0x08, "u1") if array.dtype == np.uint8 else (0x0C, ">i4")
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(dtype).tobytes())
