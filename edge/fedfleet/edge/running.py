"""That an agent runs, and how its link is, for others on the device to see: a lock that ends with it, and a note.

The broker may throw out whoever comes under the name of another, so nobody connects as the device while this is held.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedfleet.wire import files
from fedfleet.wire.errors import StoreError
from fedfleet.wire.record import Mismatch, build, plain

log = logging.getLogger("fedfleet.agent")
LOCK, NOTE = "agent.lock", "link.json"
REST = 60  # seconds between two words on who is in the way


@dataclass(frozen=True)
class LinkNote:
    """How often the agent's link has been made since its start, and why it is down; empty while it is up."""

    connections: int = 0
    reason: str = ""


class Running:
    """The hold of one agent on its state folder, until the process ends, however that happens."""

    def __init__(self, folder: Path) -> None:
        """Take `folder`, made where it is missing; raises StoreError while another agent holds it."""
        self._folder = folder
        self._said: LinkNote | None = None
        path = folder / LOCK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"{path} cannot be opened: {error.strerror}; see whose it is") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StoreError(f"{folder} is held by process {holder(folder)}: two agents may not share it") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self.tell(0, "")

    def tell(self, connections: int, reason: str) -> None:
        """Note how the link is, where that has changed; a disk that refuses is passed over."""
        said = LinkNote(connections, reason)
        if said != self._said:
            self._said = said
            with suppress(StoreError):
                files.write(self._folder / NOTE, json.dumps(plain(said)).encode())

    def close(self) -> None:
        """Let go."""
        os.close(self._lock)


def hold(folder: Path, wait: Callable[[float], bool], *, patient: bool = True) -> Running | None:
    """Return the hold on `folder`; what keeps us from it is waited out by `wait`, and named once a minute.

    None as soon as `wait(seconds)` says that it was ended. Raises StoreError instead of waiting unless `patient`.
    """
    tries = 0
    while True:
        try:
            return Running(folder)
        except StoreError as error:
            if not patient:
                raise
            if tries % REST == 0:
                log.error("%s; waiting", error)
        tries += 1
        if wait(1.0):
            return None


def holder(folder: Path) -> int:
    """The process that holds `folder`, 0 where none does; raises OSError where the lock cannot be looked at."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 32, 0).strip()
        return int(text) if text.isdigit() else -1
    finally:
        os.close(handle)
    return 0


def noted(folder: Path) -> LinkNote | None:
    """What the agent last noted of its link; None where there is nothing to be read."""
    try:
        return build(LinkNote, json.loads((folder / NOTE).read_bytes()), strict=False)
    except (OSError, ValueError, Mismatch):
        return None
