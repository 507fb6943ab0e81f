"""The mosquittos of this machine: the one that is installed, and 2.1 where MOSQUITTO21 names its program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import until

from fedfleet.cloud.broker import server

OTHER = "MOSQUITTO21"  # the path of another mosquitto, for which all of these tests run once more
KINDS = ("installed", "2.1")


def program(kind: str) -> Path:
    """Return the path of a mosquitto, or skip the test and say why."""
    if kind == "2.1":
        if OTHER not in os.environ:
            pytest.skip(f"{OTHER} names no mosquitto 2.1")
        return Path(os.environ[OTHER])
    if server.installed() is None:
        pytest.skip("mosquitto is not installed")
    return Path(server.installed() or "")


@contextmanager
def on_path(kind: str) -> Iterator[None]:
    """Let a mosquitto be the one that is installed while the block lasts."""
    found, before = program(kind), os.environ["PATH"]
    os.environ["PATH"] = f"{found.parent}:{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def ours(folder: Path) -> None:
    """Let the broker of a folder run as whoever runs the test, also where that is root."""
    settings = folder / "mosquitto.conf"
    if os.geteuid() == 0:  # it would become a user that cannot read what pytest keeps
        text = settings.read_text()
        settings.write_text(text if text.startswith("user ") else "user root\n" + text)


class Mosquitto:
    """The broker of a folder: started, killed and started again; what it says is in the folder's `log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        ours(folder)

    @property
    def said(self) -> str:
        """What it has said in all its lives."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Return when it runs."""
        command = [server.installed() or "", "-c", str(self.folder / "mosquitto.conf")]
        before = (self.folder / "log").stat().st_size if (self.folder / "log").exists() else 0
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        assert until(lambda: " running\n" in self.said[before:] or self._process.poll() is not None)
        assert self._process.poll() is None, self.said

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait(self) -> None:
        """Return when it has ended."""
        if self._process is not None:
            self._process.wait(20)
