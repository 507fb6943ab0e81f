"""Whole old or whole new, and one line where the disk says no."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedfleet.wire import files
from fedfleet.wire.errors import StoreError


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for content in (b"old", b"", b"new" * 100_000):
        files.write(path, content)
        assert path.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_what_is_secret_only_its_owner_can_read_from_the_first_byte_on(tmp_path: Path) -> None:
    before, path = os.umask(0), tmp_path / "key"
    try:
        files.write(path, b"old")
        assert path.stat().st_mode & 0o777 == 0o666
        handle = files._private(str(tmp_path / "fresh"), os.O_WRONLY | os.O_CREAT)
        assert os.fstat(handle).st_mode & 0o777 == 0o600
        os.close(handle)
        files.write(path, b"new", secret=True)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_what_is_scrubbed_is_overwritten_then_gone(tmp_path: Path) -> None:
    path, other = tmp_path / "claim", tmp_path / "other"
    path.write_bytes(b"secret" * 1000)
    other.hardlink_to(path)
    files.scrub(path)
    assert not path.exists()
    assert other.read_bytes() == bytes(6000)
    files.scrub(path)  # again is as good as once


def test_what_cannot_be_scrubbed_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder cannot be scrubbed: Is a directory"):
        files.scrub(tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/below", "Not a directory"),
        ("absent/file", "No such file or directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=f"{name} cannot be written: {reason}; free the disk or check it$"):
        files.write(tmp_path / name, b"data")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()  # a rename onto a folder fails as late as a disk can
    with pytest.raises(StoreError, match="state cannot be written: Is a directory"):
        files.write(tmp_path / "state", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


WRITE = """
import sys
from itertools import cycle
from pathlib import Path
from fedfleet.wire import files
path = Path(sys.argv[1])
for letter in cycle("ab"):
    files.write(path, letter.encode() * 300_000)
    print(letter, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 8, 25])
def test_kill_9_leaves_one_of_the_two(tmp_path: Path, rooms: Callable[..., None], lines: int) -> None:
    path = tmp_path / "state"
    with subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert path.read_bytes() in (b"a" * 300_000, b"b" * 300_000)


def test_removing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for _ in range(2):
        files.remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder cannot be removed: Is a directory"):
        files.remove(tmp_path / "folder")
