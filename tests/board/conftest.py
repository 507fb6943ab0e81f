from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

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
    out = tmp_path_factory.mktemp("made") / "fedfleet"
    try:
        make(here, out)
    except SettingsError as error:
        pytest.skip(str(error))
    return out


@pytest.fixture(scope="session")
def modern() -> None:
    """Skip where systemd-analyze cannot judge a unit that is not installed."""
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=False).stdout
    if not version or int(version.split()[1]) < 250:
        pytest.skip("systemd 250 or newer is not installed")
