"""Bounded reading of files from untrusted sources."""

import errno
import os
import stat
from pathlib import Path
from typing import IO

# Without waiting for a FIFO's writer, and, on Windows, without translating line ends.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | Path) -> IO[bytes]:
    """Opens a regular file for reading. Opening a FIFO could wait forever, and a device may never end.

    Raises:
        OSError: the file cannot be read, or it is not a regular file.
    """
    descriptor = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_limited(path: str | Path, limit: int) -> bytes:
    """Returns the content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content
