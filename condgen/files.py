"""Files that are whole or absent: written beside their place, synced, then renamed over it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from condgen.errors import UsageError


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes the place of ``path`` when the block ends without an exception.

    Whatever happens in between (a kill, a full disk), ``path`` is either its former self or the finished file.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = "the former one is whole" if path.exists() else "nothing is left of it"
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): {kept}; make room, or allow writing."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def claim_folder(path: Path) -> int:
    """Makes an empty folder that is this process's own for as long as the descriptor that it returns is open.

    One that a killed process has left is replaced.

    Raises:
        UsageError: another process has it.
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)  # one claim at a time
        if path.exists():
            os.close(_lock(path))
            shutil.rmtree(path)
        path.mkdir()
        return _lock(path)
    finally:
        os.close(parent)


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(f"{path} is being written by another process: wait for it, or give another folder.") from error
    return descriptor


def _sync_folder(folder: Path) -> None:
    """Puts a folder's names on the disk: without that, a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
