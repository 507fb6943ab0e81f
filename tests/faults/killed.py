"""The agent, to be killed at a chosen point: `python -m faults.killed TRACE AT --settings FILE`.

A point is a call that changes what is on the disk, a message that is handed to the link or has come from it, and the
two ends of training; each is written to TRACE before it happens and after. At the point number AT the process kills
itself, as the kernel or a power cut would; 0 means never.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedfleet.edge.__main__ import main
from fedfleet.edge.child import ChildTrainer
from fedfleet.wire import frames
from fedfleet.wire.bus import Delivery
from fedfleet.wire.errors import FrameError
from fedfleet.wire.mqtt import MqttBus

CALLS = ("fsync", "replace", "unlink", "truncate")


class Points:
    """Counts them, and ends us at one."""

    def __init__(self, trace: Path, at: int) -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._at = at
        self._count = 0

    def __call__(self, label: str) -> None:
        self._count += 1
        os.write(self._trace, f"{label}\n".encode())
        if self._count == self._at:
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


def file_name(what: Any) -> str:
    """The file that a call is about, without what differs from run to run."""
    path = Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else Path(what)
    return "/".join(part[:8] for part in path.parts[-2:])


def message(topic: str, payload: bytes) -> str:
    """What a message is, by its topic and its kind."""
    try:
        header = frames.unpack(payload)[0]
    except FrameError:
        header = {}
    said = [str(header[key]) for key in ("kind", "state", "outcome", "index") if key in header]
    last = topic.rpartition("/")[2]
    return " ".join(["chunk" if len(last) >= 32 else last, *said])


def install(point: Points) -> None:
    """Put points around everything that counts."""
    for name in CALLS:
        setattr(os, name, point.around(getattr(os, name), lambda what, *_, name=name: f"{name} {file_name(what)}"))
    MqttBus.publish = point.around(  # type: ignore[method-assign]
        MqttBus.publish, lambda _bus, topic, payload: f"publish {message(topic, payload)}"
    )
    ChildTrainer.train = point.around(ChildTrainer.train, lambda *_: "train")  # type: ignore[method-assign]
    deliver = MqttBus.deliveries

    def deliveries(bus: MqttBus, timeout: float) -> list[Delivery]:
        found = deliver(bus, timeout)
        for topic, payload in found:
            point(f"delivered {message(topic, payload)}")
        return found

    MqttBus.deliveries = deliveries  # type: ignore[method-assign]


if __name__ == "__main__":
    install(Points(Path(sys.argv[1]), int(sys.argv[2])))
    main(sys.argv[3:])
