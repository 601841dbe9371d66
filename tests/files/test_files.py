"""Files are written whole or not at all, and nothing that condgen did not write is removed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from condgen.errors import UsageError
from condgen.files.atomic import atomic_write
from condgen.files.reading import open_regular, read_limited

FORK = multiprocessing.get_context("fork")


def write_and_die(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"x" * 100_000)
        file.flush()
        os._exit(9)


def test_replacing_two_writers_both_finish_and_the_last_wins(tmp_path):
    path = tmp_path / "picture.png"
    with atomic_write(path) as slow:
        slow.write(b"slow" * 1000)
        with atomic_write(path) as fast:
            fast.write(b"fast")
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow" * 1000
    assert os.listdir(tmp_path) == ["picture.png"]


def test_replacing_kill_keeps_the_former_content(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"former")
    writer = FORK.Process(target=write_and_die, args=(path,))
    writer.start()
    writer.join()
    assert path.read_bytes() == b"former"
    assert len(os.listdir(tmp_path)) == 2
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["picture.png"]  # what the killed writer left is gone, too


def test_replacing_removes_no_file_of_others(tmp_path):
    others = {".picture.png.partial", ".picture.png.notes.partial", ".picture.png.01234567", "picture.png.old"}
    others.add(".picture.png.download.partial")
    for name in others:
        (tmp_path / name).write_text("mine")
    with atomic_write(tmp_path / "picture.png") as file:
        file.write(b"new")
    assert {path.name for path in tmp_path.iterdir() if path.read_text() == "mine"} == others


def test_replacing_in_a_folder_that_cannot_be_made_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/picture\.png"), atomic_write(tmp_path / "file" / "picture.png"):
        pass


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
