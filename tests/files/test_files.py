"""Files are written completely or not at all. Files of other programs are never removed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from condgen.errors import UsageError
from condgen.files.atomic import atomic_write
from condgen.files.locks import directory_lock
from condgen.files.reading import open_regular, read_limited

FORK = multiprocessing.get_context("fork")


def write_and_die(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"x" * 100_000)
        file.flush()
        os._exit(9)


def test_atomic_write_by_two_writers_keeps_the_content_of_the_last(tmp_path):
    path = tmp_path / "picture.png"
    with atomic_write(path) as slow:
        slow.write(b"slow" * 1000)
        with atomic_write(path) as fast:
            fast.write(b"fast")
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow" * 1000
    assert os.listdir(tmp_path) == ["picture.png"]


def test_atomic_write_keeps_the_previous_content_if_it_is_killed(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"previous")
    writer = FORK.Process(target=write_and_die, args=(path,))
    writer.start()
    writer.join()
    assert path.read_bytes() == b"previous"
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("days", [0, 2])
def test_atomic_write_removes_temporary_files_older_than_a_day(days, tmp_path):
    temporary = tmp_path / ".picture.png.01234567.partial"
    temporary.write_text("half")
    written = time.time() - days * 24 * 3600
    os.utime(temporary, (written, written))
    with atomic_write(tmp_path / "picture.png") as file:
        file.write(b"new")
    assert temporary.exists() is (days == 0)


def test_directory_lock_removes_temporary_files_of_killed_writers(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    writer = FORK.Process(target=write_and_die, args=(tmp_path / "checkpoints" / "last.ckpt",))
    writer.start()
    writer.join()
    assert len(os.listdir(tmp_path / "checkpoints")) == 1
    with directory_lock(tmp_path, ("checkpoints", "samples")):
        assert os.listdir(tmp_path / "checkpoints") == []
    assert os.listdir(tmp_path) == ["checkpoints"]


def test_directory_lock_refuses_a_second_process(tmp_path):
    with directory_lock(tmp_path):
        with pytest.raises(UsageError, match="is being written by another process"), directory_lock(tmp_path):
            pass
        with FORK.Pool(1) as pool:
            assert pool.apply(is_locked, (tmp_path,))
    assert not is_locked(tmp_path)


def test_directory_lock_is_released_when_its_process_ends_before_its_child(tmp_path):
    ready, child = FORK.Queue(), FORK.Queue()
    holder = FORK.Process(target=hold_lock_with_child, args=(tmp_path, ready, child))
    holder.start()
    child_pid = child.get(timeout=20)
    assert ready.get(timeout=20) == "child runs"
    assert is_locked(tmp_path)
    holder.kill()
    holder.join()
    os.kill(child_pid, 0)  # fails if the child has ended
    assert not is_locked(tmp_path)
    os.kill(child_pid, signal.SIGKILL)


def is_locked(folder: Path) -> bool:
    try:
        with directory_lock(folder):
            return False
    except UsageError:
        return True


def hold_lock_with_child(folder: Path, ready: Queue, child: Queue) -> None:
    with directory_lock(folder):
        if (pid := os.fork()) == 0:
            ready.put("child runs")
            time.sleep(60)
            os._exit(0)
        child.put(pid)
        time.sleep(60)


def test_atomic_write_keeps_files_of_other_programs(tmp_path):
    others = {".picture.png.partial", ".picture.png.notes.partial", ".picture.png.01234567", "picture.png.old"}
    others.add(".picture.png.download.partial")
    for name in others:
        (tmp_path / name).write_text("other program")
        os.utime(tmp_path / name, (0, 0))
    with atomic_write(tmp_path / "picture.png") as file:
        file.write(b"new")
    assert {path.name for path in tmp_path.iterdir() if path.read_text() == "other program"} == others


def test_atomic_write_error_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/picture\.png"), atomic_write(tmp_path / "file" / "picture.png"):
        pass


WITHOUT_POSIX = """
import importlib, os, pathlib, pkgutil, sys
import lightning.pytorch, torchvision  # imported first, because they need fcntl on this system
sys.modules["fcntl"] = None
del os.O_NONBLOCK, os.setpgrp
for package in map(importlib.import_module, ("condgen.data", "condgen.files", "condgen.sampling")):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from condgen.files.atomic import atomic_write
from condgen.files.locks import directory_lock
from condgen.files.reading import read_limited
with directory_lock(pathlib.Path(".")), atomic_write("file") as file:
    file.write(b"content")
assert read_limited("file", 7) == b"content"
"""


def test_files_data_and_sampling_work_without_posix_modules(tmp_path):
    subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT_POSIX], cwd=tmp_path, check=True)
    assert os.listdir(tmp_path) == ["file"]


def test_open_regular_refuses_fifo_and_device_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="regular file"):
            open_regular(path)


def test_read_limited_refuses_a_larger_file(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_limited(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_limited(tmp_path / "file", 4)
