"""Files that are whole or absent: written beside their place, synced, then renamed over it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from condgen.errors import UsageError


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes the place of ``path`` when the block ends without an exception.

    Whatever happens in between (a kill, a full disk), ``path`` is either its former self or the finished file.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = f"{path} is as it was" if path.exists() else "nothing is left of it"
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): {kept}; make room, or allow writing."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Puts a folder's names on the disk: without that, a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
