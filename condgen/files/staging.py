"""Replaces the contents of a folder once the new files are complete."""

import os
import re
import shutil
from pathlib import Path

from filelock import FileLock

from condgen.errors import UsageError
from condgen.files.locks import acquire, release


class StagingDirectory:
    """A temporary folder that replaces another folder once all files have been written.

    The new files are written to ``.NAME.partial``. While the two folders are swapped, the old files are kept in
    ``.NAME.replaced``. The lock file is ``.NAME.lock``. Folders that contain any files not written by condgen are never
    replaced or removed.

    Args:
        folder: The folder to create or replace.
        known: A pattern for the names of the files that condgen writes to the folder.
    """

    def __init__(self, folder: Path, known: re.Pattern[str]) -> None:
        self.folder, self.known = folder, known
        self.path = folder.with_name(f".{folder.name}.partial")
        self._replaced = folder.with_name(f".{folder.name}.replaced")
        self._lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        self._created = False

    def lock(self) -> None:
        """Locks the folder. Undoes or completes the replacement if a process was killed in the middle of it.

        Raises:
            UsageError: If another process holds the lock, or if ``.NAME.replaced`` contains unknown files.
            OSError: If the parent folder isn't writable.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        acquire(self._lock, self.folder)
        if self._replaced.exists() and not self.folder.exists():
            self._check(self._replaced)
            self._replaced.rename(self.folder)
        self._remove(self._replaced)

    def create(self) -> None:
        """Creates an empty folder at ``path``, and removes any files that a killed process left there.

        Raises:
            UsageError: If ``folder`` or ``path`` contains unknown files.
            OSError: If the folder can't be created.
        """
        if self.folder.exists():
            self._check(self.folder)
        self._remove(self.path)
        self._created = True  # set before mkdir in case we get interrupted right after it
        self.path.mkdir()

    def put_in_place(self) -> None:
        """Replaces ``folder`` with ``path``, removes the old files, and releases the lock."""
        if self.folder.exists():
            self.folder.rename(self._replaced)
        self.path.rename(self.folder)
        self._created = False
        self._remove(self._replaced)
        release(self._lock)

    def discard(self) -> None:
        """Removes ``path`` if this object created it, and releases the lock."""
        if self._created:
            shutil.rmtree(self.path, ignore_errors=True)
        release(self._lock)

    def _remove(self, folder: Path) -> None:
        if folder.exists():
            self._check(folder)
            shutil.rmtree(folder)

    def _check(self, folder: Path) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False) or not self.known.fullmatch(entry.name):
                    raise UsageError(
                        f"{entry.path} was not written by condgen, so {folder} is not replaced or removed: "
                        "move the file away, or use another folder."
                    )
