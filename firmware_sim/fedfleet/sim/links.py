"""A link between a device and its broker that is as slow and as broken as the field's: a relay for TCP on loopback.

Loss is what TCP makes of it: a lost packet is sent again a round trip later, and what came behind it waits for it.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

from fedfleet.wire.settings import Broker

Way = Literal["up", "down"]
PIECE = 16 * 1024
PACKET = 1448
START = 10.0


class Link:
    """Passes bytes on to `broker`, `delay` seconds later on their way down; counts them; can be cut and mended.

    `loss` is the share of packets that get lost on their way down, drawn from `seed`; bytes are counted once.
    """

    def __init__(self, broker: Broker, delay: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        self.up = 0
        self.down = 0
        self.port = 0
        self._broker = broker
        self._delay = delay
        self._loss = loss
        self._chance = random.Random(seed)
        self._whole = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cut()
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START)
        self._loop.close()

    def cut(self) -> None:
        """Break all connections, and every new one at once."""
        self._do(self._break())

    def mend(self) -> None:
        """Let connections live again."""
        self._whole = True

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START)

    async def _break(self) -> None:
        self._whole = False
        for writer in self._writers:
            writer.transport.abort()

    async def _close(self) -> None:
        """End every relay, those too that are only now connecting: what is left behind outlives the loop."""
        self._server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        try:
            far_reader, far = await asyncio.open_connection(self._broker.host, self._broker.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far}
        try:
            if self._whole:  # it may have been cut while the far end was being reached
                await asyncio.gather(self._pass(reader, far, "up"), self._pass(far_reader, writer, "down"))
        finally:
            for end in (writer, far):
                self._writers.discard(end)
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Pass on what is read, on its way down each piece `delay` after it came, until either end is gone."""
        delay = self._delay if way == "down" else 0.0
        held = 0.0
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not piece:
                    writer.transport.abort()
                    return
                setattr(self, way, getattr(self, way) + len(piece))
                writer.write(piece)
                await writer.drain()

        sending = asyncio.ensure_future(send())
        with suppress(OSError):
            while piece := await reader.read(PIECE):
                if way == "down" and self._chance.random() > (1 - self._loss) ** (len(piece) / PACKET):
                    held = self._loop.time() + delay  # sent again, a round trip later
                pieces.put_nowait((max(self._loop.time(), held) + delay, piece))
        pieces.put_nowait((0.0, b""))
        with suppress(OSError):
            await sending
