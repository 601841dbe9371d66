"""Atomic writes. After a crash, a file has either its old content or the complete new content."""

import contextlib
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from condgen.errors import UsageError

ABANDONED_AFTER = 24 * 3600.0  # seconds without a write until we assume that the writer of a temporary file is gone


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that replaces ``path`` once the block exits without an error.

    ``path`` keeps its old content if the process gets killed or the disk is full. Each writer has its own temporary
    file, so if multiple processes write to the same path, the last one wins.

    Raises:
        UsageError: If the file can't be written.
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


def say_replacing(*paths: Path) -> None:
    """Prints which of these files are about to be replaced, because they exist."""
    if existing := [str(path) for path in paths if os.path.lexists(path)]:
        print(f"Replacing {', '.join(existing)}", file=sys.stderr, flush=True)


def remove_temporary_files(folder: Path, unchanged_for: float = 0) -> None:
    """Removes any temporary files that haven't been written to for at least ``unchanged_for`` seconds."""
    for path in folder.glob(".*.partial"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.partial", path.name):
            with contextlib.suppress(OSError):  # already removed by another process
                if time.time() - path.stat().st_mtime >= unchanged_for:
                    path.unlink()


@contextmanager
def write_errors_name(path: Path) -> Iterator[None]:
    """Converts any OSError to a UsageError that mentions ``path``, because an OSError often doesn't."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "free some space or allow writing; the previous file is unchanged"
        raise UsageError(f"{path} cannot be written ({reason}): {advice}.") from error


def _sync_folder(folder: Path) -> None:
    """Flushes a folder to disk, since a power failure could undo a rename otherwise."""
    with contextlib.suppress(PermissionError):  # Windows can't open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
