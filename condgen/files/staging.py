"""Folders that are replaced as a whole."""

import os
import re
import shutil
from pathlib import Path

from filelock import FileLock

from condgen.errors import UsageError
from condgen.files.locks import acquire, release


class StagingDirectory:
    """Writes a folder's new content beside it, and puts it in place when it is complete.

    The new content is in ``.NAME.partial``; ``.NAME.replaced`` has the old one while the two change places, and
    ``.NAME.lock`` keeps other processes out. A folder with files that this program did not write is neither replaced
    nor removed.

    Args:
        folder: the folder to create or to replace.
        known: matches the names of the files that this program writes into it.
    """

    def __init__(self, folder: Path, known: re.Pattern[str]) -> None:
        self.folder, self.known = folder, known
        self.path = folder.with_name(f".{folder.name}.partial")
        self._replaced = folder.with_name(f".{folder.name}.replaced")
        self._lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        self._created = False

    def lock(self) -> None:
        """Locks the folder, and undoes or completes a replacement during which a process was killed.

        Raises:
            UsageError: another process holds the lock, or ``.NAME.replaced`` has unknown files.
            OSError: the folder's parent cannot be written.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        acquire(self._lock, self.folder)
        if self._replaced.exists() and not self.folder.exists():
            self._check(self._replaced)
            self._replaced.rename(self.folder)
        self._remove(self._replaced)

    def create(self) -> None:
        """Creates ``path``, empty. Files that a killed process left there are removed.

        Raises:
            UsageError: ``folder`` or ``path`` has unknown files.
            OSError: it cannot be created.
        """
        if self.folder.exists():
            self._check(self.folder)
        self._remove(self.path)
        self._created = True  # before it is: an interrupt may come as soon as there is something to remove
        self.path.mkdir()

    def put_in_place(self) -> None:
        """Renames ``path`` to ``folder``, whose old content is removed."""
        if self.folder.exists():
            self.folder.rename(self._replaced)
        self.path.rename(self.folder)
        self._created = False
        self._remove(self._replaced)
        release(self._lock)

    def discard(self) -> None:
        """Removes ``path``, if it was created here, and releases the lock."""
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
                        f"{entry.path} was not written by condgen, so {folder} is neither replaced nor removed: "
                        "move it away, or use another folder."
                    )
