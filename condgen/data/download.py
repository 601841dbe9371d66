"""Base class of the data sets that torchvision can download. A download has a time-out."""

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

DOWNLOAD_TIMEOUT = 10.0  # seconds without receiving a byte


def download_with_timeout(download: Callable[[], None], folder: Path) -> None:
    """Runs a download and stops waiting for it if no data arrives.

    torchvision's downloads have no time-out, and if a firewall drops the connections, torchvision tries one address
    after another. So the download runs in a thread, which is abandoned after DOWNLOAD_TIMEOUT seconds without receiving
    a byte.

    Args:
        download: Function that downloads files into ``folder``.
        folder: Folder whose size shows the progress of the download.

    Raises:
        TimeoutError: If the download was abandoned.
        Exception: If ``download`` raised an exception, that exception.
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
        with contextlib.suppress(FileNotFoundError):  # torchvision removes an archive after extracting it
            received = sum(path.stat().st_size for path in folder.rglob("*"))
        if received != size:
            size, since = received, time.monotonic()
        elif time.monotonic() - since > DOWNLOAD_TIMEOUT:
            raise TimeoutError(f"nothing arrived for {DOWNLOAD_TIMEOUT:g} seconds")
    if errors:
        raise errors[0]


class DownloadedDataModule(ImageDataModule):
    """Base class of the data sets whose files torchvision can download into ``root/NAME``."""

    files: Sequence[str]
    """Names of the files of the data set."""
    files_folder = "raw"
    """Name of the folder under ``root/NAME`` into which torchvision downloads the files."""

    def find(self) -> object:
        """Returns the paths of the files or of their folder; None if a file is missing."""
        raise NotImplementedError

    def torchvision_download(self, root: Path) -> None:
        """Downloads the files into ``root/NAME`` with torchvision."""
        raise NotImplementedError

    def download(self) -> None:
        """Downloads the data set if its files are missing and are needed.

        If the download fails and ``source`` allows the sample, no error is raised.

        Raises:
            UsageError: If the data set is needed and cannot be downloaded, or if its folder is known only from a
                checkpoint.
        """
        if self.source == "sample" or self.find() is not None:
            return
        if not self.may_download:
            raise UsageError(
                f"{self.dataset} is not under {self.root}, the folder named in the checkpoint. Add "
                f"--data.root {self.root} to download the data set there."
            )
        try:
            self._download()
        except (OSError, RuntimeError) as error:
            if self.source == "full" or not self.sample_available:
                reason = " ".join(str(error).split())
                raise UsageError(
                    f"{self.dataset} is not under {self.root} and cannot be downloaded ({reason[:300]}): "
                    f"put its files {', '.join(self.files)} into {self.root / self.dataset / self.files_folder}, or "
                    "use another --data.root."
                ) from error

    def _download(self) -> None:
        """Downloads the files into a temporary folder and moves them to ``root/NAME`` when they are complete."""
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
                self.root.rmdir()  # removes the folder if it is empty because nothing was downloaded
