"""Reading files that may come from anybody, and writing files so that they are never half-written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from condgen.errors import UsageError


def open_regular(path: str | Path) -> IO[bytes]:
    """Opens a regular file for reading. Opening a FIFO could wait forever, and a device may never end.

    Raises:
        OSError: the file cannot be read, or it is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_limited(path: str | Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes the place of ``path`` when the block ends without an exception.

    If the process is killed or the disk is full, ``path`` still has its former content. Each writer has a temporary
    file of its own, so that several can write the same path: the last one wins.

    Raises:
        UsageError: the file cannot be written.
    """
    path = Path(path)
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        beside, file = _create_beside(path)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        kept = "the former one is whole" if os.path.exists(path) else "nothing is left of it"
        raise UsageError(f"{path} cannot be written ({reason}): {kept}; make room, or allow writing.") from error
    finally:
        if beside is not None:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def _create_beside(path: Path) -> tuple[Path, IO[bytes]]:
    """A new temporary file beside ``path``, which is locked while it is open."""
    while True:
        beside = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.partial")
        file = open(beside, "xb")  # noqa: SIM115
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if beside.exists():  # else another writer took it for stale before it was locked
            return beside, file
        file.close()


def _remove_stale(path: Path) -> None:
    """Removes the temporary files of writers of ``path`` that were killed: those that nobody has locked."""
    ours = re.compile(re.escape(f".{path.name[:50]}.") + r"[0-9a-f]{8}\.partial")
    for name in os.listdir(path.parent):
        if not ours.fullmatch(name):
            continue
        with contextlib.suppress(OSError), open_regular(path.with_name(name)) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.with_name(name).unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raises a failed write inside as a UsageError that names ``path``: the system's own error often names no file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{path} cannot be written ({reason}): make room, or allow writing.") from error


def check_known(folder: Path, known: re.Pattern[str]) -> None:
    """Raises UsageError unless everything in a folder is a file whose whole name matches ``known``."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False) or not known.fullmatch(entry.name):
                raise UsageError(
                    f"{entry.path} was not written by condgen, so {folder} is neither replaced nor removed: "
                    "move it away, or give another folder."
                )


def remove_known(folder: Path, known: re.Pattern[str]) -> None:
    """Removes a folder; raises UsageError and removes nothing if :func:`check_known` does."""
    check_known(folder, known)
    shutil.rmtree(folder)


class FolderClaim:
    """A folder that is this process's own from :meth:`take` until :meth:`release`.

    Args:
        path: the folder, which is made when it is taken.
        known: matches the names of the files that this process writes into it.
    """

    def __init__(self, path: Path, known: re.Pattern[str]) -> None:
        self.path, self.known = path, known
        self._made = False
        self._lock: int | None = None

    def take(self) -> None:
        """Makes the folder, empty. One that a killed process has left is replaced.

        Raises:
            UsageError: another process has it, or it holds files of somebody else.
            OSError: it cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        parent = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(parent, fcntl.LOCK_EX)  # one claim at a time
            if self.path.exists():
                _unlock(_lock(self.path))
                remove_known(self.path, self.known)
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
