"""The MQTT bus: paho-mqtt behind `Bus`, and the only file that imports it.

paho's thread only fills a queue; everything else runs in the caller's thread. MQTT 5 where the broker speaks it,
3.1.1 where not. All messages go at QoS 1; a PUBACK proves nothing, so receipts are the protocol's business.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, NamedTuple

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from fedfleet.wire.bus import Delivery, Will
from fedfleet.wire.errors import BusDown
from fedfleet.wire.settings import Broker

QOS = 1
BATCH = 256
UNSUPPORTED = 132  # CONNACK reason: the broker does not speak this version of MQTT
FLUSH = 5.0
VERSIONS = {
    5: (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311),
    3: (MQTTProtocolVersion.MQTTv311,),
}


class Arrival(NamedTuple):
    """A delivery with what acknowledging it takes: the connection it came by, and its packet id."""

    delivery: Delivery
    connection: int
    packet: int


class MqttBus:
    """One connection to a broker, kept up by paho's thread with its back-off of 1 to 30 s."""

    def __init__(self, broker: Broker, client_id: str, will: Will | None = None, *, wait: float = 10.0) -> None:
        """Connect, or raise BusDown within `wait` seconds with the reason and the remedy."""
        self.sent = 0
        self.received = 0
        self.connections = 0
        self._published = 0
        self._acknowledged = 0
        self._will = will
        self._patterns: list[str] = []
        self._inbox: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._unacknowledged: list[Arrival] = []
        self._connection = 0
        self._last: MQTTMessageInfo | None = None
        self._answered = threading.Event()
        self._answer: ReasonCode | None = None
        for version in VERSIONS[broker.mqtt]:
            self._client = self._connect(broker, client_id, version, wait)
            if self._answer is not None and not self._answer.is_failure:
                return
            self._client.disconnect()
            self._client.loop_stop()
            if self._answer is not None and self._answer.value != UNSUPPORTED:
                break  # it speaks this version and says no; a broker that hangs up may only know the older one
        why = f"it answered: {self._answer}" if self._answer is not None else f"no answer within {wait:g} s"
        raise BusDown(
            f"broker {broker.host}:{broker.port} refused {client_id}: {why}; check host, port and credentials"
        )

    @property
    def pending(self) -> int:
        """Messages published that the broker has not acknowledged."""
        return self._published - self._acknowledged

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send `payload`; while the connection is down it waits in memory."""
        self.sent += len(topic) + len(payload)
        self._published += 1
        self._last = self._client.publish(topic, payload, QOS, retain)

    def subscribe(self, pattern: str) -> None:
        """Ask for all topics that match `pattern`."""
        if pattern not in self._patterns:
            self._patterns.append(pattern)
        self._client.subscribe(pattern, QOS)

    def unsubscribe(self, pattern: str) -> None:
        """Take a subscription back."""
        if pattern in self._patterns:
            self._patterns.remove(pattern)
        self._client.unsubscribe(pattern)

    def deliveries(self, timeout: float) -> list[Delivery]:
        """Return what has arrived, waiting up to `timeout` seconds for the first; acknowledges the ones before."""
        self._acknowledge()
        try:
            self._unacknowledged.append(self._inbox.get(timeout=timeout) if timeout > 0 else self._inbox.get_nowait())
            while len(self._unacknowledged) < BATCH:
                self._unacknowledged.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        found = [arrival.delivery for arrival in self._unacknowledged]
        self.received += sum(len(topic) + len(payload) for topic, payload in found)
        return found

    def close(self) -> None:
        """Send what waits, as far as the broker takes it within 5 s, and leave without a last will."""
        self._acknowledge()
        if self._last is not None and self._client.is_connected():
            self._last.wait_for_publish(FLUSH)
        self._client.disconnect()
        self._client.loop_stop()

    def _acknowledge(self) -> None:
        # A packet id of an earlier connection may name another message by now: only this connection's are safe.
        for arrival in self._unacknowledged:
            if arrival.connection == self._connection:
                self._client.ack(arrival.packet, QOS)
        self._unacknowledged.clear()

    def _connect(self, broker: Broker, client_id: str, version: MQTTProtocolVersion, wait: float) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, manual_ack=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.reconnect_delay_set(1, 30)
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
        if self._will:
            client.will_set(self._will.topic, self._will.death, QOS, retain=True)
        self._answered.clear()
        self._answer = None
        try:
            client.connect(broker.host, broker.port, broker.keepalive)
        except OSError as error:
            why = error.strerror or str(error)
            raise BusDown(
                f"no broker at {broker.host}:{broker.port}: {why}; start one or correct host and port"
            ) from None
        client.loop_start()
        self._answered.wait(wait)
        return client

    def _on_connect(self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _props: Any) -> None:
        self._answer = reason
        if not reason.is_failure:
            self.connections += 1
            if self._will:
                self._published += 1
                client.publish(self._will.topic, self._will.birth, QOS, retain=True)
            for pattern in self._patterns:
                client.subscribe(pattern, QOS)
        self._answered.set()

    def _on_disconnect(self, _c: Client, _data: Any, _flags: DisconnectFlags, _reason: ReasonCode, _props: Any) -> None:
        self._connection += 1
        self._answered.set()

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._inbox.put(Arrival(Delivery(message.topic, bytes(message.payload)), self._connection, message.mid))

    def _on_publish(self, _client: Client, _data: Any, _packet: int, _reason: ReasonCode, _props: Any) -> None:
        self._acknowledged += 1
