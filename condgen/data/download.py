"""Base class for datasets that torchvision can download, with a timeout in case no data arrives."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from condgen.data.datamodule import ImageDataModule
from condgen.errors import UsageError, short_reason

DOWNLOAD_TIMEOUT = 10.0  # seconds without receiving any data


def download_with_timeout(download: Callable[[], None], folder: Path) -> None:
    """Runs a download, and gives up on it if no data arrives.

    torchvision's downloads don't have a timeout, and keep trying one address after another if a firewall drops the
    connections. So we run the download in a thread, and abandon it after DOWNLOAD_TIMEOUT seconds without any data.

    Args:
        download: A function that downloads files to ``folder``.
        folder: The folder whose size is used to track the progress of the download.

    Raises:
        TimeoutError: If the download was abandoned.
        Exception: Any exception that was raised by ``download``.
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
        with contextlib.suppress(FileNotFoundError):  # torchvision deletes archives after extracting them
            received = sum(path.stat().st_size for path in folder.rglob("*"))
        if received != size:
            size, since = received, time.monotonic()
        elif time.monotonic() - since > DOWNLOAD_TIMEOUT:
            raise TimeoutError(f"nothing arrived for {DOWNLOAD_TIMEOUT:g} seconds")
    if errors:
        raise errors[0]


class DownloadedDataModule(ImageDataModule):
    """Base class for datasets that torchvision can download to ``root/NAME``."""

    files: Sequence[str]
    """The file names of the dataset."""
    files_folder = "raw"
    """The folder under ``root/NAME`` that torchvision downloads the files to."""

    def find(self) -> object:
        """Returns the paths of the files or of the folder they are in, or None if a file is missing."""
        raise NotImplementedError

    def torchvision_download(self, root: Path) -> None:
        """Downloads the files to ``root/NAME`` using torchvision."""
        raise NotImplementedError

    def download(self) -> None:
        """Downloads the dataset if it's needed and any of its files are missing.

        A failed download is not an error as long as ``source`` allows us to use the sample instead.

        Raises:
            UsageError: If the dataset is required but can't be downloaded, or if its folder is only known from a
                checkpoint.
        """
        if self.source == "sample" or self.find() is not None:
            return
        if not self.may_download:
            raise UsageError(
                f"{self.dataset} is not under {self.root}, the folder named in the checkpoint. Add "
                f"--data.root {self.root} to download the dataset there."
            )
        try:
            self._download()
        except (OSError, RuntimeError) as error:
            if self.source == "full" or not self.sample_available:
                raise UsageError(
                    f"{self.dataset} is not under {self.root} and cannot be downloaded ({short_reason(error)}): "
                    f"put its files {', '.join(self.files)} into {self.root / self.dataset / self.files_folder}, or "
                    "use another --data.root."
                ) from error

    def _download(self) -> None:
        """Downloads to a temporary folder, and moves the files to ``root/NAME`` once they are complete."""
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
                self.root.rmdir()  # fails unless the folder is empty, i.e. nothing was downloaded
