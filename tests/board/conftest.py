from __future__ import annotations

import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import trees

from fedfleet.cloud.bundle.boards import Board
from fedfleet.cloud.bundle.make import make
from fedfleet.wire.errors import SettingsError

PYTHON = Path("/usr/bin/python3")


@pytest.fixture(scope="session")
def here() -> Board:
    """This machine, as a board."""
    if not PYTHON.is_symlink():
        pytest.skip(f"{PYTHON} is not there, or not as Debian has it")
    version = PYTHON.readlink().name.rpartition("python")[2]
    lock = "lock-32.txt" if version == "3.11" else "lock.txt"
    return Board("here", version, platform.machine(), 34, lock)


@pytest.fixture(scope="session")
def bundle(here: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle for this machine; its wheels come from the cache once they have been fetched."""
    return _made(here, tmp_path_factory)


@pytest.fixture(scope="session")
def bundle_of_litert(here: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the runtime of newer boards."""
    return _made(replace(here, lock="lock.txt"), tmp_path_factory)


def _made(board: Board, folders: pytest.TempPathFactory) -> Path:
    out = folders.mktemp("made") / "fedfleet"
    try:
        make(board, out)
    except SettingsError as error:
        pytest.skip(str(error))
    return out


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A board's file system, with nothing of ours in it."""
    found = trees.tree(tmp_path / "tree")
    trees.numpy(found)
    return found


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A bundle of the agent alone, at version 1.2, for that board."""
    return trees.bundle(tmp_path / "fedfleet")


@pytest.fixture(scope="session")
def modern() -> None:
    """Skip where systemd-analyze cannot judge a unit that is not installed."""
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=False).stdout
    if not version or int(version.split()[1]) < 250:
        pytest.skip("systemd 250 or newer is not installed")
