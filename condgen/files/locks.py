"""Exclusive directory locks. A lock is released when its process ends, even if the process gets killed."""

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
    """Locks a folder for writing, and cleans up temporary files that were left behind by killed processes.

    Args:
        folder: The folder to lock. Must exist.
        subfolders: The names of any subfolders to clean up as well.

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
    """Acquires the lock on ``folder``. Does nothing if the file system doesn't support locks.

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
        pass  # the file system doesn't support locks, or the folder is read-only, which the first write will report


def release(lock: BaseFileLock) -> None:
    """Releases the lock and removes its file. Does nothing if this process doesn't hold the lock."""
    if lock.is_locked:
        with contextlib.suppress(OSError):  # Windows can't remove an open file, so filelock does it later
            os.unlink(lock.lock_file)
    lock.release()
