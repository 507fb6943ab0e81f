"""What a broker makes of us, from one conversation with it: let in, delivered to, room for a chunk."""

from __future__ import annotations

import os

from fedfleet.wire.boxes import Message
from fedfleet.wire.chunks import Offer, pack_part
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine
from fedfleet.wire.doctor.network import REFUSALS, refusal, speaks_tls
from fedfleet.wire.doctor.talk import UNSUPPORTED, Say, Talk
from fedfleet.wire.link import LARGEST_OUT
from fedfleet.wire.messages import CHUNK, MAX_ROUND, Blob
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

LOGIN = Cause(
    "mqtt-login", "the broker takes neither the user name nor its password", "correct broker.username, or {variable}"
)
NOT_AUTHORISED = Cause(
    "mqtt-not-authorised", "the broker does not let this client in",
    "set broker.username and broker.password_env, or a certificate; or let {name} in",
)  # fmt: skip
VERSION = Cause(
    "mqtt-version", "the broker does not speak this version of MQTT", "set broker.mqtt = 5, or update the broker"
)
BAD_NAME = Cause(
    "mqtt-client-id", "the broker does not take the client's name", "let the broker take {name}, or rename it"
)
AWAY = Cause("mqtt-unavailable", "the broker is busy, or not to be had now", "see the broker's log and its limits")
TAKEN = Cause(
    "mqtt-taken-over", "another client comes under this name and throws this one out",
    "give each device a name of its own: look for the other {name}",
)  # fmt: skip
SECURE = Cause("mqtt-tls-wanted", "the port speaks TLS, and we do not", "set broker.tls = true, and broker.ca")
NO_ANSWER = Cause("mqtt-no-answer", "what listens there does not answer as an MQTT broker does", "correct broker.port")
NO_PASSWORD = Cause("mqtt-password", "the variable with the password is not set", "set {variable} where doctor runs")
MQTT = (LOGIN, NOT_AUTHORISED, VERSION, BAD_NAME, AWAY, TAKEN, SECURE, NO_ANSWER, NO_PASSWORD, *REFUSALS)
BY_ANSWER = {
    134: LOGIN,
    133: BAD_NAME,
    UNSUPPORTED: VERSION,
    136: AWAY,
    137: AWAY,
    159: AWAY,
}

UNWRITTEN = Cause("acl-write", "the broker does not let the client write what is its own", "let {name} write {topic}")
UNDELIVERED = Cause(
    "acl-delivery", "what the client writes, and asks for, is not delivered to it",
    "let {name} write and read {topic} in the broker's access list",
)  # fmt: skip
ACL = (UNWRITTEN, UNDELIVERED)

TOO_SMALL = Cause(
    "packets-too-small", "a chunk of 64 KiB does not fit into the broker's largest packet",
    "set max_packet_size of the broker to at least {least}",
)  # fmt: skip
PACKETS = (TOO_SMALL,)


def let_in(found: Talk, broker: Broker, name: str) -> Finding:
    """Whether the broker has let the client in, and to stay."""
    places = {"name": name, "variable": broker.password_env or "broker.password_env", "ca": broker.ca}
    if found.answer == 0:
        if found.lost:
            seen = found.said or "the link was lost at once"
            return failed(TAKEN, seen, **places)
        return fine(f"{name} is let in, MQTT {5 if found.version == 5 else '3.1.1'}")
    if found.answer > 0:
        cause = BY_ANSWER.get(found.answer, LOGIN if broker.username else NOT_AUTHORISED)
        return failed(cause, f"it answered: {found.words}", **places)
    if cause_ := refusal(found.said):
        return failed(cause_, found.said, **places)
    if found.newer:
        return failed(VERSION, "it answers to MQTT 5 only")
    secure = not broker.tls and speaks_tls(broker)
    return failed(SECURE if secure else NO_ANSWER, found.said or "no answer within 10 s", **places)


def without_password(broker: Broker) -> Finding | None:
    """What is to be said where the password cannot be had."""
    if broker.password_env and broker.password_env not in os.environ:
        seen = f"broker.password_env names {broker.password_env}, which is not set here"
        return failed(NO_PASSWORD, seen, variable=broker.password_env)
    return None


def delivered(found: Talk, say: Say, name: str) -> Finding:
    """Whether what the client wrote came back to it: a broker grants subscriptions that it never serves."""
    if not say.topic:
        if found.delivered:
            return fine(f"{len(found.delivered)} retained messages were delivered")
        return beside("nothing is retained that could be delivered")
    if say.topic in found.delivered:
        return fine(f"{say.topic} was written, and delivered")
    cause = UNWRITTEN if found.denied else UNDELIVERED
    seen = f"{say.topic}: {found.denied or 'it was taken, and never delivered'}"
    return failed(cause, seen, name=name, topic=say.topic)


def roomy(found: Talk, topics: Topics, name: str) -> Finding:
    """Whether the broker's largest packet takes a chunk, and a part of an update from the device `name`."""
    least = largest_packet(topics, name)
    if found.largest < least:
        return failed(TOO_SMALL, f"its largest packet is {found.largest} bytes, a chunk takes {least}", least=least)
    said = f"{found.largest} bytes" if found.largest < LARGEST_OUT else "no limit that it tells"
    return fine(f"{said}, a chunk takes {least}")


def largest_packet(topics: Topics, name: str) -> int:
    """Bytes of the largest packet that this client has to do with: a whole part of an update."""
    blob = Blob("0" * 64, CHUNK)
    part = pack_part(Offer(MAX_ROUND, 1, "float32", blob), 0, bytes(CHUNK))
    return Message(topics.update(name), part, retain=False).size
