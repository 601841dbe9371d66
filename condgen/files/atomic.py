"""Atomic writes: a file has its former content or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from condgen.errors import UsageError
from condgen.files.reading import open_regular


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
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


def _sync_folder(folder: Path) -> None:
    """Puts a folder's names on the disk: without that, a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
