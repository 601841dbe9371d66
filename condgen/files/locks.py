"""Exclusive locks on directories. A lock is released when its process ends, even if the process is killed."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from condgen.errors import UsageError
from condgen.files.atomic import remove_temporary_files


@contextmanager
def directory_lock(folder: Path, subfolders: tuple[str, ...] = ()) -> Iterator[None]:
    """Locks a folder for writing, and removes temporary files that killed processes left in it.

    Args:
        folder: Existing folder to lock.
        subfolders: Names of subfolders from which temporary files are also removed.

    Raises:
        UsageError: If another process holds the lock.
    """
    lock = FileLock(folder / ".lock")
    acquire(lock, folder)
    try:
        for name in ("", *subfolders):
            remove_temporary_files(folder / name)
        yield
    finally:
        release(lock)


def acquire(lock: BaseFileLock, folder: Path) -> None:
    """Acquires the lock on ``folder``. Does nothing if the file system does not support locks.

    Raises:
        UsageError: If another process holds the lock.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{folder} is being written by another process: wait for it, or use another folder."
        ) from error
    except OSError:
        pass  # the file system has no locks, or the folder is read-only, which the first write reports


def release(lock: BaseFileLock) -> None:
    """Releases a lock and removes its file. Does nothing if this process does not hold the lock."""
    if lock.is_locked:
        with contextlib.suppress(OSError):  # Windows cannot remove an open file: filelock removes it afterwards
            os.unlink(lock.lock_file)
    lock.release()
