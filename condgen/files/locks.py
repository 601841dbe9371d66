"""Exclusive locks on directories. They end with the process that holds them, however it ends."""

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
    """Makes this process the only writer of a folder, and removes the temporary files of killed writers.

    Args:
        folder: an existing folder.
        subfolders: names of those in which temporary files of killed writers are removed, too.

    Raises:
        UsageError: another process holds the lock.
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
    """Takes the lock on ``folder``, if its file system has locks; raises UsageError if another process holds it."""
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{folder} is being written by another process: wait for it, or use another folder."
        ) from error
    except OSError:
        pass  # a file system without locks, or a folder that cannot be written, as the first write will say


def release(lock: BaseFileLock) -> None:
    """Releases a lock, if this process holds it, and removes its file."""
    if lock.is_locked:
        with contextlib.suppress(OSError):  # Windows removes no open file; filelock does after the release
            os.unlink(lock.lock_file)
    lock.release()
