"""One connection to an MQTT broker, from its first byte to its last: the only file that imports paho-mqtt.

A lost link is not mended, the next one has a client of its own; so nothing of paho's state outlives a connection. All
of it runs in one thread, which calls `turn` for as long as that says True.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
from contextlib import suppress
from typing import Any, NamedTuple

from paho.mqtt.client import MQTT_LOG_ERR, Client, ConnectFlags, DisconnectFlags, MQTTMessage, WebsocketConnectionError
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fedfleet.wire import tls
from fedfleet.wire.boxes import Arrival, Inbox, Message, Outbox
from fedfleet.wire.bus import Delivery, Will
from fedfleet.wire.settings import Broker

log = logging.getLogger("fedfleet.bus")
QOS = 1
WINDOW = 64  # deliveries that may come before the first is acknowledged
FLIGHT = 20  # publishes on their way; mosquitto's own default
LARGEST_IN = 1024 * 1024  # bytes of a packet; a broker drops what is larger
LARGEST_OUT = 268_435_455  # what MQTT itself allows
TAKEN_OVER = 142
LOSSES = {130: "what it says is not MQTT", 141: "it was silent for too long"}
PATIENCE = 10.0  # seconds for TCP, TLS and the WebSocket's greeting each
VERSIONS = {
    5: (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311),
    3: (MQTTProtocolVersion.MQTTv311,),
}


class Who(NamedTuple):
    """As whom to connect, and where to."""

    broker: Broker
    name: str
    password: str | None
    will: Will | None


class Link:
    """A connection that delivers into `inbox` and tells `outbox` what the broker has; `number` marks its arrivals."""

    def __init__(self, who: Who, version: MQTTProtocolVersion, inbox: Inbox, outbox: Outbox, number: int) -> None:
        """Raises SettingsError for a certificate that cannot be read."""
        self.number = number
        self.answer: ReasonCode | None = None
        self.said = ""
        self.denied = ""  # the first thing that the broker refused to take, and why
        self.window = FLIGHT
        self.largest = LARGEST_OUT
        self._who = who
        self._inbox = inbox
        self._outbox = outbox
        self._client = self._dressed(version)

    def open(self) -> None:
        """Connect and greet; the answer comes with later turns. Raises OSError."""
        broker = self._who.broker
        properties = None
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.ReceiveMaximum = WINDOW
            properties.MaximumPacketSize = LARGEST_IN
        # paho asks after one keepalive of silence and gives up after two: so a stalled broker is found out within 4/3
        # of what was set, and a broker that allows half as much again gives us up after exactly that
        try:
            self._client.connect(broker.host, broker.port, broker.keepalive * 2 // 3, properties=properties)
        except WebsocketConnectionError:
            raise ConnectionError(f"no WebSocket at {broker.path}") from None

    def turn(self, wake: socket.socket, timeout: float) -> bool:
        """Do what is due, waiting up to `timeout` seconds for it or a byte in `wake`; False once the link is over."""
        link = self._client.socket()
        if link is None:
            return False
        reading = not self._inbox.full
        poll = select.poll()  # not select, which knows no file above 1023
        poll.register(wake, select.POLLIN)
        poll.register(link, reading * select.POLLIN | self._client.want_write() * select.POLLOUT)
        pending = getattr(link, "pending", None)  # what TLS has decrypted and the kernel knows no more of
        buffered = reading and pending is not None and pending() > 0
        ready = dict(poll.poll(0 if buffered else timeout * 1000))
        if wake.fileno() in ready:
            wake.recv(4096)
        if buffered or ready.get(link.fileno(), 0) & ~select.POLLOUT:
            self._client.loop_read()
        if self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()
        return self._client.socket() is not None

    def publish(self, message: Message) -> None:
        """Send it; the outbox hears of its acknowledgement."""
        self._outbox.flies(self._send(message), message)

    def born(self) -> None:
        """Say the birth, if there is a will."""
        if will := self._who.will:
            self._outbox.flies(self._send(Message(will.topic, will.birth, retain=True)), None)

    def subscribe(self, pattern: str) -> None:
        """Ask for all topics that match `pattern`."""
        self._client.subscribe(pattern, QOS)

    def unsubscribe(self, pattern: str) -> None:
        """Take a subscription back."""
        self._client.unsubscribe(pattern)

    def acknowledge(self, arrivals: list[Arrival]) -> None:
        """Tell the broker that these are safe; a packet id of an earlier link may name another message by now."""
        for arrival in arrivals:
            if arrival.packet and arrival.connection == self.number:
                self._client.ack(arrival.packet, QOS)

    def leave(self) -> None:
        """Say goodbye, so that the broker forgets the will."""
        self._client.disconnect()

    def drop(self) -> None:
        """End the connection now, whatever state it is in."""
        if (link := self._client.socket()) is not None:
            with suppress(OSError):
                link.close()

    def _send(self, message: Message) -> int:
        return self._client.publish(message.topic, message.payload, QOS, message.retain).mid

    def _dressed(self, version: MQTTProtocolVersion) -> Client:
        broker = self._who.broker
        client = Client(
            CallbackAPIVersion.VERSION2,
            self._who.name,
            protocol=version,
            transport="websockets" if broker.transport == "websockets" else "tcp",
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = PATIENCE
        client.max_inflight_messages_set(0)  # the outbox keeps the window, and tries again after a lost link
        if broker.tls:
            client.tls_set_context(tls.context(broker))
        if broker.transport == "websockets":
            client.ws_set_options(broker.path)
        if broker.username:
            client.username_pw_set(broker.username, self._who.password)
        if will := self._who.will:
            client.will_set(will.topic, will.death, QOS, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message, client.on_publish = self._on_message, self._on_publish
        client.on_subscribe, client.on_log = self._on_subscribe, self._on_log
        client.on_socket_close = self._on_socket_close
        return client

    def _on_connect(
        self, _c: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, props: Properties | None
    ) -> None:
        self.answer = reason
        self.window = min(FLIGHT, getattr(props, "ReceiveMaximum", FLIGHT))
        self.largest = min(LARGEST_OUT, getattr(props, "MaximumPacketSize", LARGEST_OUT))

    def _on_disconnect(self, _c: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, _props: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            name = self._who.name
            another = f"another client came as {name}; give each device a name of its own"
            self.said = another if reason.value == TAKEN_OVER else f"it said: {reason}"
        elif not self.said:
            self.said = LOSSES.get(reason.value, "it hung up")

    def _on_message(self, client: Client, _data: Any, message: MQTTMessage) -> None:
        packet = message.mid  # 0 where it came at QoS 0, which wants no acknowledgement
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("dropped a message whose topic is not UTF-8")
            if packet:
                client.ack(packet, QOS)
            return
        self._inbox.put(Arrival(Delivery(topic, bytes(message.payload)), self.number, packet))

    def _on_publish(self, _c: Client, _data: Any, packet: int, reason: ReasonCode, _props: Any) -> None:
        message = self._outbox.landed(packet)
        if reason.is_failure and not self.denied:
            topic = message.topic if message else "its birth"
            self.denied = f"{reason}"
            log.warning(
                "the broker refuses what %s says on %s: %s; check its access list", self._who.name, topic, reason
            )

    def _on_subscribe(self, _c: Client, _data: Any, _packet: int, reasons: list[ReasonCode], _props: Any) -> None:
        for reason in reasons:
            if reason.is_failure:
                log.warning("the broker refuses %s a subscription: %s; check its access list", self._who.name, reason)

    def _on_socket_close(self, _client: Client, _data: Any, link: Any) -> None:
        if self.answer is None and self._who.broker.tls:
            # a broker that does not take our certificate says so after the handshake, and a failed write hides it
            try:
                link.recv(1)
            except ssl.SSLError as error:
                if not isinstance(error, ssl.SSLWantReadError):
                    self.said = str(error)
            except OSError:
                pass

    def _on_log(self, _client: Client, _data: Any, level: int, text: str) -> None:
        if level == MQTT_LOG_ERR:  # the only place where paho tells of a TLS alert
            self.said = text.rpartition("on socket: ")[2]
