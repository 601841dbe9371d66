"""Reads files from untrusted sources with a size limit."""

import errno
import os
import stat
from pathlib import Path
from typing import IO

# O_NONBLOCK avoids waiting for the writer of a FIFO. O_BINARY avoids newline conversion on Windows.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | Path) -> IO[bytes]:
    """Opens a regular file for reading.

    Any other file is rejected, because opening a FIFO could block forever and reading a device might never end.

    Raises:
        OSError: If the file can't be read or isn't a regular file.
    """
    descriptor = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_limited(path: str | Path, limit: int) -> bytes:
    """Reads a regular file of up to ``limit`` bytes.

    Raises:
        OSError: If the file can't be read, isn't a regular file, or is larger than ``limit`` bytes.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content
