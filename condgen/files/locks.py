"""Locks on directories."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from condgen.errors import UsageError


@contextmanager
def directory_lock(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps other processes out that want it alone, too, where its file system can do so.

    Raises:
        UsageError: another process has it.
    """
    folder.mkdir(exist_ok=True)
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = _lock(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            _unlock(descriptor)


_locks: set[int] = set()  # the descriptors of those that this process has


def _lock(path: Path) -> int:
    """Locks a folder for as long as the descriptor that it returns is open."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise
        raise UsageError(f"{path} is being written by another process: wait for it, or give another folder.") from error
    _locks.add(descriptor)
    return descriptor


def _unlock(descriptor: int) -> None:
    _locks.discard(descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _close_locks() -> None:
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_close_locks)  # else a loader's workers would hold a lock longer than the program
