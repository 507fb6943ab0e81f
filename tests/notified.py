"""Who listens as systemd does: a real datagram socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Listener:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, link: socket.socket, address: str) -> None:
        self._link = link
        self.address = address

    def heard(self, seconds: float = 0.0) -> list[str]:
        """Return the lines of the next message; none where there is none within `seconds`."""
        self._link.settimeout(seconds)
        try:
            return self._link.recv(4096).decode().split("\n")
        except (TimeoutError, BlockingIOError):
            return []

    def until(self, line: str, seconds: float = 30.0) -> bool:
        """Whether `line` is heard within `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if line in self.heard(left):
                return True
        return False

    def silent(self, line: str, seconds: float) -> bool:
        """Whether `line` is not heard for `seconds`, after what had been said before."""
        while self.heard():
            pass
        return not self.until(line, seconds)


@contextmanager
def listening(folder: Path, abstract: bool = False) -> Iterator[Listener]:
    """Listen at a socket in `folder`, or at one without a file."""
    path = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind("\0" + path if abstract else path)
        yield Listener(link, "@" + path if abstract else path)
