"""The thread of an MQTT bus: it keeps a link to a broker, and makes it again for as long as the bus is open.

All of paho runs in here. Callers put into one queue and take from another, so none of them waits for paho's locks.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from fedfleet.wire import tls
from fedfleet.wire.backoff import HELD, Backoff
from fedfleet.wire.boxes import Inbox, Message, Outbox
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.link import LARGEST_OUT, VERSIONS, Link, Who

log = logging.getLogger("fedfleet.bus")
ANSWER = 10.0  # seconds for the broker's answer to a greeting
FLUSH = 5.0
TICK = 1.0
UNSUPPORTED = 132  # CONNACK reason: the broker does not speak this version of MQTT
LATER = (136, 137, 159)  # unavailable, busy, too many connections: not a refusal of this client
TLS_PORTS = (443, 8883, 8884)


class End(NamedTuple):
    """How a connection ended: why, after how many seconds, and what that says of the next one."""

    why: str
    held: float = 0.0
    refused: bool = False
    other_version: bool = False


class Keeper:
    """Keeps the link of `who`; `reason` says why it is down, and is empty while it is up."""

    def __init__(self, who: Who, backoff: Backoff, *, patient: bool) -> None:
        """`patient`: goes on after a first connection that fails; else the thread ends with it."""
        self.inbox, self.outbox = Inbox(), Outbox()
        self.patterns: list[str] = []
        self.connections = 0
        self.dropped = 0
        self.largest = LARGEST_OUT
        self.reason = f"broker {_at(who)}: no answer yet"
        self.answered = threading.Event()
        self._who = who
        self._backoff = backoff
        self._patient = patient
        self._orders: deque[Callable[[Link], None]] = deque()
        self._told = False
        self._closing = threading.Event()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{who.name}", daemon=True)
        self._thread.start()

    def order(self, order: Callable[[Link], None]) -> None:
        """Have something done with the link, in its thread; forgotten if that link is lost before."""
        self._orders.append(order)
        self.stir()

    def stir(self) -> None:
        """Let the thread look for what there is to do."""
        with suppress(OSError):  # full: it will look anyway; closed: nobody is there
            self._waker.send(b"\0")

    def stop(self) -> None:
        """Send what waits, as far as the broker takes it within 5 s, and say goodbye."""
        self._closing.set()
        self.stir()
        self._thread.join(FLUSH + 2 * TICK)  # one that looks a name up just now ends later, by itself

    def drop(self, message: Message, why: str) -> None:
        """Count a message that will not be sent."""
        self.dropped += 1
        if not self._told:
            self._told = True
            log.warning("dropped a message on %s: %s; said once for each link", message.topic, why)

    def _run(self) -> None:
        versions = VERSIONS[self._who.broker.mqtt]
        tried = 0
        with self._wake, self._waker:
            while not self._closing.is_set():
                end = self._connection(tried)
                tried += 1
                if end.other_version and tried < len(versions):
                    continue
                tried = 0
                if not self._closing.is_set() and not self._again(end):
                    return

    def _again(self, end: End) -> bool:
        """Wait for the time of the next connection; False if there should be none."""
        self.reason = end.why
        self.answered.set()
        if not self._patient and not self.connections:
            return False
        pause = self._backoff.pause(end.held, refused=end.refused)
        log.warning("%s; trying again in %.1f s", end.why, pause)
        self._closing.wait(pause)
        return True

    def _connection(self, tried: int) -> End:
        """Make a link and serve it until it ends."""
        link = None
        try:
            version = VERSIONS[self._who.broker.mqtt][tried]
            link = Link(self._who, version, self.inbox, self.outbox, self.connections + 1)
            link.open()
            return self._answer(link) or self._serve(link)
        except ssl.SSLError as error:
            why, refused = tls.explain(str(error))
            return End(f"broker {_at(self._who)}: {why}", refused=refused)
        except OSError as error:
            usual = " (8883 is usual for TLS)" if self._who.broker.tls else ""
            why = f"{error.strerror or error}; start one or correct host and port{usual}"
            return End(f"no broker at {_at(self._who)}: {why}")
        except SettingsError as error:  # the certificate was there at the start, and will be again
            return End(str(error))
        except Exception as error:  # whatever paho makes of what a broker says, the thread goes on
            log.exception("a fault of ours ended the link")
            return End(f"broker {_at(self._who)}: {type(error).__name__}: {error}")
        finally:
            if link is not None:
                link.drop()
            for message in self.outbox.lost():
                self.drop(message, "link after link was lost under it; is it over a limit of the broker's?")

    def _answer(self, link: Link) -> End | None:
        """Wait for the broker's answer; returns how it ended, or None where the broker has agreed."""
        deadline = time.monotonic() + ANSWER
        while link.answer is None and not self._closing.is_set():
            if not link.turn(self._wake, TICK) and link.answer is None:
                why, refused = tls.explain(link.said)
                return End(refusal(self._who, why), refused=refused, other_version=not refused)
            if time.monotonic() > deadline:
                return End(refusal(self._who, f"no answer within {ANSWER:g} s"), other_version=True)
        if link.answer is None:
            return End("closed")
        if link.answer.is_failure:
            code, why = link.answer.value, refusal(self._who, f"it answered: {link.answer}")
            return End(why, refused=code not in LATER, other_version=code == UNSUPPORTED)
        return None

    def _serve(self, link: Link) -> End:
        began = time.monotonic()
        self._begin(link)
        while not self._closing.is_set():
            self._hand_over(link)
            if not link.turn(self._wake, TICK):
                return self._lost(link, time.monotonic() - began)
        self._leave(link)
        return End("closed")

    def _lost(self, link: Link, held: float) -> End:
        why = tls.explain(link.said)[0]
        # mosquitto before 2.1 does not say so
        twin = f"; if this goes on, look for another client named {self._who.name}" if held < HELD else ""
        return End(f"broker {_at(self._who)}: the link was lost: {why}{twin}", held)

    def _begin(self, link: Link) -> None:
        self.largest = link.largest
        self._orders.clear()  # before the patterns are read: a subscription may be made twice, never be forgotten
        link.born()
        for pattern in tuple(self.patterns):
            link.subscribe(pattern)
        if self.answered.is_set():
            log.info("broker %s: connected again", _at(self._who))
        self.connections += 1
        self.reason, self._told = "", False
        self.answered.set()

    def _hand_over(self, link: Link) -> None:
        while self._orders:
            self._orders.popleft()(link)
        while message := self.outbox.next(link.window):
            if message.size > link.largest:  # it came before this broker had said so
                self.drop(message, f"{message.size} bytes, and the broker takes {link.largest}")
            else:
                link.publish(message)

    def _leave(self, link: Link) -> None:
        end = time.monotonic() + FLUSH
        self._hand_over(link)
        while len(self.outbox) and time.monotonic() < end and link.turn(self._wake, TICK):
            self._hand_over(link)
        link.leave()
        while time.monotonic() < end and link.turn(self._wake, TICK):
            pass


def refusal(who: Who, why: str) -> str:
    """Say that a broker does not want us."""
    broker, hint = who.broker, "check host, port and credentials"
    if broker.port in TLS_PORTS and not broker.tls:
        hint = f"port {broker.port} is usually for TLS: set broker.tls = true"
    elif broker.tls and not broker.certificate:
        hint += "; if it wants a client certificate, set broker.certificate and broker.key"
    return f"broker {_at(who)} refused {who.name}: {why}; {hint}"


def _at(who: Who) -> str:
    return f"{who.broker.host}:{who.broker.port}"
