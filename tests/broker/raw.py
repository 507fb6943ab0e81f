"""A client that says what it likes: MQTT by hand over TLS, or over a WebSocket in TLS, for what no good client does.

All waiting is for answers. A broker answers one client in order, so whatever it has for a client when it answers a ping
has come before that answer.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SILENCE = 20.0
CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
ALIAS, RESPONSE, SESSION = b"\x23", b"\x08", b"\x11"


class Way(NamedTuple):
    """How to reach a broker: where, whom to trust, MQTT 4 (3.1.1) or 5, in a WebSocket or not."""

    ca: Path
    port: int
    level: int = 5
    socket: bool = False
    host: str = "127.0.0.1"

    def context(self, certificate: Path | None) -> ssl.SSLContext:
        """What a client with this certificate, whose key lies beside it, makes its connection with."""
        found = ssl.create_default_context(cafile=str(self.ca))
        if certificate is not None:
            found.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return found


class Will(NamedTuple):
    """What the broker shall say when the link is lost."""

    topic: str
    payload: bytes
    retain: bool = False


class Raw:
    """One connection. `answer` is the broker's to the greeting, 0 for yes; `present` whether it had a session."""

    def __init__(
        self,
        way: Way,
        certificate: Path | None,
        client_id: str,
        *,
        clean: bool = True,
        will: Will | None = None,
        username: str = "",
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
        keepalive: int = 60,
    ) -> None:
        """Raises OSError where the broker does not let this client in."""
        self.way, self._bytes, self._heard = way, b"", list[tuple[str, bytes]]()
        self._number = 0
        plain = socket.create_connection((way.host, way.port), SILENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = context or way.context(certificate)
        try:
            self.link = context.wrap_socket(plain, server_hostname=way.host, session=session)
        except OSError:
            plain.close()
            raise
        try:
            if way.socket:
                self._upgrade()
            self.send(0x10, self._greeting(client_id, clean, will, username, keepalive))
            _, rest = self._expect(CONNACK)
        except OSError:
            self.link.close()
            raise
        self.present, self.answer, self._properties_said = bool(rest[0] & 1), rest[1], rest[3:]

    @property
    def keepalive(self) -> int:
        """What the broker has set instead of what was asked for; 0 where it has not."""
        at = self._properties_said.find(b"\x13")
        return int.from_bytes(self._properties_said[at + 1 : at + 3], "big") if at >= 0 else 0

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, properties: bytes = b"") -> int | None:
        """Publish at QoS 1 and return the broker's reason code, 0 for yes; None where it hung up."""
        self._number += 1
        rest = text(topic) + struct.pack(">H", self._number) + self._properties(properties) + payload
        try:
            self.send(0x32 | retain, rest)
            found = self._expect(PUBACK)[1]
        except OSError:
            return None
        return found[2] if len(found) > 2 else 0

    def subscribe(self, pattern: str, *, unsubscribe: bool = False) -> int | None:
        """Subscribe at QoS 1 and return the broker's answer, below 128 for yes; None where it hung up."""
        self._number += 1
        rest = struct.pack(">H", self._number) + self._properties(b"") + text(pattern)
        try:
            self.send(0xA2 if unsubscribe else 0x82, rest if unsubscribe else rest + b"\x01")
            return self._expect(11 if unsubscribe else SUBACK)[1][-1]
        except OSError:
            return None

    def heard(self) -> list[tuple[str, bytes]]:
        """Return topic and payload of all that the broker has delivered so far; raises OSError where it hung up."""
        self.send(0xC0, b"")
        self._expect(PINGRESP)
        found, self._heard = self._heard, []
        return found

    @property
    def alive(self) -> bool:
        """Whether the broker still talks to this client."""
        try:
            self.send(0xC0, b"")
            self._expect(PINGRESP)
        except OSError:
            return False
        return True

    def fall(self) -> None:
        """End the link without a word, and return when the broker has noticed; its last will is then said."""
        with suppress(OSError):
            self.link.shutdown(socket.SHUT_WR)
            while self.link.recv(65536):  # until the broker ends its side, in the same breath
                pass
        self.link.close()

    def leave(self) -> None:
        """Say goodbye, and return when the broker has hung up; there is no last will then."""
        with suppress(OSError):
            self.send(0xE0, b"")
            while self._packet():
                pass
        self.link.close()

    def send(self, kind: int, rest: bytes) -> None:
        """Send one packet; `kind` is its first byte."""
        size, digits = len(rest), b""
        while size > 127:
            digits, size = digits + bytes([size & 127 | 128]), size >> 7
        packet = bytes([kind]) + digits + bytes([size]) + rest
        self.link.sendall(_frame(packet) if self.way.socket else packet)

    def _greeting(self, client_id: str, clean: bool, will: Will | None, username: str, keepalive: int) -> bytes:
        five = self.way.level == 5
        flags = clean * 2 | (will is not None) * 0x0C | bool(will and will.retain) * 0x20 | bool(username) * 0xC0
        # a session of MQTT 5 is kept for as long as is asked; nobody asks for less than 3.1.1 has anyway
        kept = SESSION + struct.pack(">I", 3600) if not clean else b""
        found = (
            text("MQTT")
            + bytes([self.way.level, flags])
            + struct.pack(">H", keepalive)
            + self._properties(kept)
            + text(client_id)
        )
        if will is not None:
            found += (b"\x00" if five else b"") + text(will.topic) + struct.pack(">H", len(will.payload)) + will.payload
        return found + (text(username) + text("secret") if username else b"")

    def _properties(self, properties: bytes) -> bytes:
        return bytes([len(properties)]) + properties if self.way.level == 5 else b""

    def _expect(self, kind: int) -> tuple[int, bytes]:
        while (found := self._packet())[0] != kind:
            if found[0] == 14:
                raise ConnectionError(f"the broker said goodbye: {found[1]!r}")
        return found

    def _packet(self) -> tuple[int, bytes]:
        first, size = self._exactly(1)[0], 0
        for shift in range(0, 28, 7):
            digit = self._exactly(1)[0]
            size |= (digit & 127) << shift
            if digit < 128:
                break
        rest = self._exactly(size)
        if first >> 4 == PUBLISH:
            self._take(first, rest)
        return first >> 4, rest

    def _take(self, first: int, rest: bytes) -> None:
        size = struct.unpack(">H", rest[:2])[0]
        topic, rest = rest[2 : 2 + size].decode(), rest[2 + size :]
        if first & 6:
            self.send(0x40, rest[:2])
            rest = rest[2:]
        if self.way.level == 5:
            rest = rest[1 + rest[0] :]
        self._heard.append((topic, rest))

    def _exactly(self, count: int) -> bytes:
        while len(self._bytes) < count:
            self._bytes += self._frame() if self.way.socket else self._read()
        found, self._bytes = self._bytes[:count], self._bytes[count:]
        return found

    def _read(self, count: int = 65536) -> bytes:
        found = self.link.recv(count)
        if not found:
            raise ConnectionError("the broker hung up")
        return found

    def _upgrade(self) -> None:
        lines = ["GET /mqtt HTTP/1.1", f"Host: {self.way.host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        self.link.sendall("\r\n".join([*lines, "Sec-WebSocket-Protocol: mqtt", "", ""]).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self._read(1)
        if b" 101 " not in answer.split(b"\r\n")[0]:
            raise ConnectionError(answer.decode())

    def _frame(self) -> bytes:
        found = b""

        def exactly(count: int) -> bytes:
            nonlocal found
            found = b""
            while len(found) < count:
                found += self._read(count - len(found))
            return found

        first, size = exactly(2)
        if size == 126:
            size = struct.unpack(">H", exactly(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", exactly(8))[0]
        body = exactly(size) if size else b""
        if first & 15 == 8:
            raise ConnectionError("the broker closed the WebSocket")
        return body if first & 15 in (0, 2) else b""


def text(said: str) -> bytes:
    """A string as MQTT has it."""
    return struct.pack(">H", len(said.encode())) + said.encode()


def _frame(packet: bytes) -> bytes:
    mask, size = os.urandom(4), len(packet)
    if size < 126:
        lead = bytes([0x82, 0x80 | size])
    else:
        lead = bytes([0x82, 0xFE]) + struct.pack(">H", size) if size < 65536 else b"\x82\xff" + struct.pack(">Q", size)
    whole = mask * (size // 4 + 1)
    return lead + mask + (int.from_bytes(packet, "big") ^ int.from_bytes(whole[:size], "big")).to_bytes(size, "big")
