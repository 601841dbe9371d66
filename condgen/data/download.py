"""Downloads with a time-out."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte


def download_with_timeout(download: Callable[[], None], folder: Path) -> None:
    """Runs ``download``, which writes into ``folder``.

    torchvision's downloads have no time-out, and try one address after another if a firewall swallows connections. So
    the download runs in a thread, which is abandoned after DOWNLOAD_TIMEOUT seconds without a byte.

    Raises:
        TimeoutError: it was abandoned.
        Exception: any exception of ``download``.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            download()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    size, received, since = -1, 0, time.monotonic()
    while thread.is_alive():
        thread.join(0.1)
        with contextlib.suppress(FileNotFoundError):  # an archive that has been extracted
            received = sum(path.stat().st_size for path in folder.rglob("*"))
        if received != size:
            size, since = received, time.monotonic()
        elif time.monotonic() - since > DOWNLOAD_TIMEOUT:
            raise TimeoutError(f"nothing arrived for {DOWNLOAD_TIMEOUT:g} seconds")
    if errors:
        raise errors[0]
