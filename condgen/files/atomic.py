"""Atomic writes: a file has its previous content or the new one, never a part of it."""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from condgen.errors import UsageError

ABANDONED_AFTER = 24 * 3600.0  # seconds without a write, after which a temporary file's writer must have been killed


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that replaces ``path`` when the block ends without an exception.

    If the process is killed or the disk is full, ``path`` keeps its previous content. Each writer has its own temporary
    file, so several can write the same path: the last one wins.

    Raises:
        UsageError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.partial")
    with write_errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(path.parent, unchanged_for=ABANDONED_AFTER)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def remove_temporary_files(folder: Path, unchanged_for: float = 0) -> None:
    """Removes the temporary files in a folder that nobody has written for so many seconds."""
    for path in folder.glob(".*.partial"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.partial", path.name):
            with contextlib.suppress(OSError):  # another process was faster
                if time.time() - path.stat().st_mtime >= unchanged_for:
                    path.unlink()


@contextmanager
def write_errors_name(path: Path) -> Iterator[None]:
    """Raises an OSError of the block as a UsageError that names ``path``, as the system's own error often does not."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "free some space or allow writing; the former file is unchanged"
        raise UsageError(f"{path} cannot be written ({reason}): {advice}.") from error


def _sync_folder(folder: Path) -> None:
    """Writes a folder's entries to the disk: without it, a power failure could undo a rename."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
