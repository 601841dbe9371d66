"""Data sets that torchvision can download, with a time-out."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError

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


class DownloadedDataModule(ImageDataModule):
    """A data set of files that torchvision can download, into ``root/NAME``."""

    files: Sequence[str]
    """Names of the files."""
    files_folder = "raw"
    """The folder for the files, under ``root/NAME``."""

    def find(self) -> object:
        """Where the files are; None if one is missing."""
        raise NotImplementedError

    def torchvision_download(self, root: Path) -> None:
        """Downloads the files into ``root/NAME``, with torchvision."""
        raise NotImplementedError

    def download(self) -> None:
        """Downloads the data set if it is not there; does nothing if that fails and the sample may be used."""
        if self.source == "sample" or self.find() is not None:
            return
        if not self.may_download:
            raise UsageError(
                f"{self.dataset} is not under {self.root}, which only the checkpoint names: give "
                f"--data.root {self.root} to download it there."
            )
        try:
            self._download()
        except (OSError, RuntimeError) as error:
            if self.source == "full" or not self.sample_available:
                reason = " ".join(str(error).split())
                raise UsageError(
                    f"{self.dataset} is not under {self.root} and cannot be downloaded ({reason[:300]}): "
                    f"put its files {', '.join(self.files)} into {self.root / self.dataset / self.files_folder}, or "
                    "give another --data.root."
                ) from error

    def _download(self) -> None:
        """Downloads into a temporary folder, from which complete files are moved to their place."""
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.dataset}-", dir=self.root))
        try:
            download_with_timeout(lambda: self.torchvision_download(temporary), temporary)
            folder = self.root / self.dataset / self.files_folder
            folder.mkdir(parents=True, exist_ok=True)
            for file in (temporary / self.dataset / self.files_folder).iterdir():
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.root.rmdir()  # succeeds if the folder is empty because nothing was downloaded
