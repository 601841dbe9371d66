"""Reading files that may come from anybody, and writing files so that they are never half-written."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from pathlib import Path

from condgen.errors import UsageError
from condgen.files.locks import _lock, _unlock


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


class StagingDirectory:
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
