from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest


@pytest.fixture
def free() -> Callable[[int], list[str]]:
    """Addresses of this machine that nobody has now: `free(count)`."""

    def found(count: int) -> list[str]:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
            return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]

    return found
