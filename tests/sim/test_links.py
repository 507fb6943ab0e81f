"""A link passes on what it is given, counts it, takes its time, and breaks when it is told to."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from fedfleet.sim.links import Link
from fedfleet.wire.settings import Broker

WORDS = bytes(range(256)) * 400


@pytest.fixture
def echo() -> Iterator[Broker]:
    """A server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(end: socket.socket) -> None:
        with end:
            try:
                while piece := end.recv(65536):
                    end.sendall(piece)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                end, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(end,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield Broker(port=server.getsockname()[1])
    server.close()


def through(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=20)


def exchanged(end: socket.socket, words: bytes) -> bytes:
    """Send `words` and return as many bytes as come back, less where the link breaks."""
    threading.Thread(target=end.sendall, args=(words,), daemon=True).start()
    found = b""
    while len(found) < len(words) and (piece := end.recv(65536)):
        found += piece
    return found


def broken(end: socket.socket) -> bool:
    """Whether the other side has gone."""
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_what_goes_in_comes_out_and_is_counted(echo: Broker, loss: float) -> None:
    with Link(echo, delay=0.01, loss=loss) as link, through(link) as end:
        assert exchanged(end, WORDS) == WORDS
        assert (link.up, link.down) == (len(WORDS), len(WORDS))


def test_it_takes_its_time_and_loss_takes_more(echo: Broker) -> None:
    def seconds(loss: float) -> float:
        with Link(echo, delay=0.1, loss=loss) as link, through(link) as end:
            began = time.monotonic()
            assert exchanged(end, b"word") == b"word"
            return time.monotonic() - began

    assert seconds(0.0) >= 0.1
    assert seconds(1.0) >= 0.2


def test_a_cut_link_breaks_what_is_and_what_comes_until_it_is_mended(echo: Broker) -> None:
    with Link(echo) as link:
        with through(link) as end:
            assert exchanged(end, b"word") == b"word"
            link.cut()
            assert broken(end)
        with through(link) as end:
            assert broken(end)
        link.mend()
        with through(link) as end:
            assert exchanged(end, WORDS) == WORDS


def test_a_broker_that_is_not_there_breaks_the_link_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = Broker(port=server.getsockname()[1])
    with Link(gone) as link, through(link) as end:
        assert broken(end)


def test_nothing_of_it_is_left(echo: Broker) -> None:
    with Link(echo, delay=5.0) as link:
        end = through(link)
        end.sendall(b"word")
    assert "link" not in {thread.name for thread in threading.enumerate()}
    end.close()


def test_nothing_is_left_of_those_who_are_only_now_connecting(echo: Broker) -> None:
    for _ in range(10):
        with Link(echo) as link:
            ends = [through(link) for _ in range(20)]
        for end in ends:
            end.close()
    gc.collect()  # a task that outlives its loop warns here, which is an error
