"""Downloads with a time-out."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte


def _run_while_bytes_come(download: Any, folder: Path) -> None:
    """Runs ``download`` until it ends, or until nothing has arrived in ``folder`` for DOWNLOAD_TIMEOUT seconds.

    torchvision's download has no time-out, and where connections are swallowed it tries address after address: so it
    runs in a thread that is left behind.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            download()
        except BaseException as error:
            failures.append(error)

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        size, since = -1, time.monotonic()
        while thread.is_alive():
            thread.join(0.1)
            now = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > DOWNLOAD_TIMEOUT:
                raise TimeoutError(f"nothing arrived for {DOWNLOAD_TIMEOUT:g} seconds")
    finally:
        socket.setdefaulttimeout(before)
    if failures:
        raise failures[0]
