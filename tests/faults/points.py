"""Points at which a process may be killed: what they are called, counted and written down.

A point is a call that changes what is on the disk, or a message that is handed to the link or has come from it. At the
one that is chosen the process kills itself by SIGKILL, as the kernel would when memory runs out.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedfleet.wire import frames
from fedfleet.wire.bus import Delivery
from fedfleet.wire.errors import FrameError
from fedfleet.wire.mqtt import MqttBus

CALLS = ("fsync", "replace", "unlink", "truncate")


class Points:
    """Counts them, writes each to the file `trace`, and ends us at the one that `kills` has for the section we are in."""

    def __init__(self, trace: Path, kills: Mapping[str, int], section: str = "") -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._kills = kills
        self.enter(section)

    def enter(self, section: str) -> None:
        """Count from 1 again."""
        self._section = section
        self._count = 0

    def __call__(self, label: str, damage: Callable[[], None] | None = None) -> None:
        """A point; `damage` is what a kill leaves there that we cannot be interrupted in."""
        self._count += 1
        os.write(self._trace, f"{self._section}: {label}\n".encode() if self._section else f"{label}\n".encode())
        if self._count == self._kills.get(self._section):
            if damage:
                damage()
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: Callable[..., Any], label: Callable[..., str]) -> Callable[..., Any]:
        """Return `what` with a point before it and one after it."""

        def call(*arguments: Any, **options: Any) -> Any:
            name = label(*arguments)
            self(f"before {name}")
            found = what(*arguments, **options)
            self(f"after {name}")
            return found

        return call

    def install(self) -> None:
        """Put points around everything that every process does: files and messages."""
        for name in CALLS:
            setattr(os, name, self.around(getattr(os, name), lambda what, *_, name=name: f"{name} {file_name(what)}"))
        MqttBus.publish = self.around(  # type: ignore[method-assign]
            MqttBus.publish, lambda _bus, topic, payload: f"publish {message(topic, payload)}"
        )
        deliver = MqttBus.deliveries

        def deliveries(bus: MqttBus, timeout: float) -> list[Delivery]:
            found = deliver(bus, timeout)
            for topic, payload in found:
                self(f"delivered {message(topic, payload)}")
            return found

        MqttBus.deliveries = deliveries  # type: ignore[method-assign]


def file_path(what: Any) -> Path:
    """The file that a call is about, by its path or its handle."""
    return Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else Path(what)


def file_name(what: Any) -> str:
    """The file that a call is about, without what differs from run to run."""
    return "/".join(part[:8] for part in file_path(what).parts[-2:])


def message(topic: str, payload: bytes) -> str:
    """What a message is, by its topic and its kind."""
    try:
        header = frames.unpack(payload)[0]
    except FrameError:
        header = {}
    said = [str(header[key]) for key in ("kind", "state", "outcome", "index") if key in header]
    last = topic.rpartition("/")[2]
    return " ".join(["chunk" if len(last) >= 32 else last, *said])
