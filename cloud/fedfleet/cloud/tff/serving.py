"""The other side: questions are answered one by one, until whoever asks has gone; then the whole group ends."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from fedfleet.cloud.tff.alone import OPEN
from fedfleet.cloud.tff.pipe import Array, Message, receive, send
from fedfleet.wire.errors import FedfleetError

Answer = Callable[[dict[str, Any], list[Array]], Message]


def serve(answers: Mapping[str, Answer]) -> None:
    """Answer the questions on standard input by their `kind`; never returns. Call it before anything is started."""
    asked, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code, and TFF's worker, print must not land between our answers
    threading.Thread(target=_leash, daemon=True).start()

    def failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Whatever ends us is said before: TensorFlow Federated raises errors of many kinds."""
        sys.__excepthook__(kind, error, trace)
        send(said, {"failed": f"{kind.__name__.lstrip('_')}: {first_line(error)}"})
        _end()

    sys.excepthook = failed
    while (message := receive(asked)) is not None:
        header, arrays = message
        try:
            answer, found = answers[header["kind"]](header, arrays)
        except FedfleetError as error:
            answer, found = {"refused": str(error)}, []
        send(said, {**answer, "open": OPEN in os.environ}, found, len(found))
    _end()


def first_line(error: BaseException) -> str:
    """Return what `error` says, in a line; of one from TFF's worker, what the worker said."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else str(error)
    return next((line.strip()[:300] for line in str(text).splitlines() if line.strip()), "no message")


def _leash() -> None:
    """End the group when whoever asks has ended, in the middle of a round too: the other end of the pipe is closed."""
    watch = select.poll()
    watch.register(0, 0)
    watch.poll()
    _end()


def _end() -> None:
    os.killpg(0, signal.SIGKILL)
