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


class FolderClaim:
    """A folder that is this process's own from :meth:`take` until :meth:`release`.

    Args:
        path: the folder, which is made when it is taken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = False
        self._lock: int | None = None

    def take(self) -> None:
        """Makes the folder, empty; one that a killed process has left is replaced.

        Raises:
            UsageError: another process has it.
            OSError: it cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        parent = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(parent, fcntl.LOCK_EX)  # one claim at a time
            if self.path.exists():
                _unlock(_lock(self.path))
                shutil.rmtree(self.path)
            self._made = True  # before it is: an interrupt may come as soon as there is something to remove
            self.path.mkdir()
            self._lock = _lock(self.path)
        finally:
            os.close(parent)

    def remove(self) -> None:
        """Removes the folder, if it was taken, and releases it."""
        if self._made:
            shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Leaves the folder, or what it was renamed to, as it is."""
        self._made = False
        if self._lock is not None:
            _unlock(self._lock)
            self._lock = None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
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


def _sync_folder(folder: Path) -> None:
    """Puts a folder's names on the disk: without that, a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
