"""Stolen names, strange names and messages that are too large: nobody becomes another, and nobody disturbs another."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
from broker.conftest import Yard
from broker.raw import ALIAS, RESPONSE, Raw, text
from broker.rights import RIGHTS, TOP

from fedfleet.cloud.broker import server
from fedfleet.cloud.broker.conf import PACKET
from fedfleet.wire.frames import MAX_BODY, MAX_HEADER

Enter = Callable[..., Raw]
RECEIPT, UPDATE, STATUS = (f"{TOP}/device/pump-1/{kind}" for kind in ("receipt", "update", "status"))
OWN = f"{TOP}/device/pump-2/update"
STOLEN = ("pump-1", "mill-cloud", "mill-operator", "claim-0123456789ab", "PUMP-1", "#", "+", "a/b")


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
@pytest.mark.parametrize("name", STOLEN)
def test_a_client_id_is_no_disguise(yard: Yard, witness: Raw, enter: Enter, way: str, name: str, clean: bool) -> None:
    victim, cloud = enter("pump-1"), enter("cloud")
    victim.subscribe(RECEIPT)
    thief = enter("pump-2", way, client_id=name, clean=clean)
    thief.subscribe(RECEIPT)
    thief.publish(UPDATE, b"forged")
    cloud.publish(RECEIPT, b"secret")
    assert thief.heard() == []
    assert victim.heard() == [(RECEIPT, b"secret")]  # so its link is the one that it was
    assert witness.heard() == [(RECEIPT, b"secret")]
    thief.publish(OWN, b"honest")
    assert witness.heard() == [(OWN, b"honest")]


@pytest.mark.parametrize("way", ["5", "3.1.1"])
def test_what_waits_for_a_device_waits_for_it_alone(yard: Yard, enter: Enter, way: str) -> None:
    for name in ("pump-1", "pump-2"):  # a greeting that wants no session ends the one there is
        yard.connect(name, way).leave()
    owner = yard.connect("pump-1", way, clean=False)
    owner.subscribe(RECEIPT)
    owner.fall()
    enter("cloud").publish(RECEIPT, b"secret")
    thief = enter("pump-2", way, client_id="pump-1", clean=False)
    assert not thief.present
    assert thief.heard() == []
    owner = enter("pump-1", way, clean=False)
    assert owner.present
    assert owner.heard() == [(RECEIPT, b"secret")]
    enter("pump-1", way)  # clean: nothing is kept any more


def test_an_empty_client_id_is_refused_or_of_no_use(yard: Yard, witness: Raw, enter: Enter, way: str) -> None:
    victim = enter("pump-1")
    try:
        thief = Raw(yard.by(way), yard.certificate("pump-2"), "")
    except OSError:
        thief = None
    if thief is not None:
        thief.publish(UPDATE, b"forged")
        thief.leave()
    assert witness.heard() == []
    assert victim.alive


@pytest.mark.parametrize("username", ["pump-1", "mill-cloud", "witness"])
def test_a_username_is_no_disguise(yard: Yard, witness: Raw, enter: Enter, way: str, username: str) -> None:
    thief = enter("pump-2", way, username=username)
    thief.publish(UPDATE, b"forged")
    thief.publish(f"{TOP}/task", b"forged", retain=True)
    assert witness.heard() == []
    thief.publish(OWN, b"honest")
    assert witness.heard() == [(OWN, b"honest")]


def test_the_second_link_of_a_name_takes_the_place_of_the_first(yard: Yard, way: str) -> None:
    first = yard.connect("pump-1", way)
    second = yard.connect("pump-1", way, client_id="another")
    assert not first.alive
    assert second.alive
    first.fall()
    second.leave()


@pytest.mark.parametrize("way", ["5", "5 in a WebSocket"])
def test_an_alias_of_a_topic_is_held_against_the_list(yard: Yard, witness: Raw, enter: Enter, way: str) -> None:
    thief = enter("pump-2", way)
    alias = ALIAS + struct.pack(">H", 1)
    thief.publish(OWN, b"1", properties=alias)
    thief.publish("", b"2", properties=alias)
    assert witness.heard() == [(OWN, b"1"), (OWN, b"2")]
    thief.publish(UPDATE, b"3", properties=alias)
    thief.publish("", b"4", properties=alias)
    assert witness.heard() == []


@pytest.mark.parametrize("topic", [RECEIPT, f"{TOP}/task", "$CONTROL/dynamic-security/v1", "#"])
def test_a_response_topic_gives_no_right(yard: Yard, witness: Raw, enter: Enter, topic: str) -> None:
    victim, thief = enter("pump-1"), enter("pump-2")
    victim.subscribe(RECEIPT)
    thief.publish(OWN, b"1", properties=RESPONSE + text(topic))
    assert witness.heard() in ([(OWN, b"1")], [])  # a wildcard there breaks the rules
    assert victim.heard() == []


@pytest.mark.parametrize("topic", ["$SYS/broker/version", "$SYS/broker/clients/total", f"$share/thieves/{TOP}/task"])
def test_what_is_the_broker_s_own_is_written_by_nobody(yard: Yard, enter: Enter, topic: str) -> None:
    witness = yard.connect("witness")
    for pattern in (topic, f"{TOP}/task", "#"):
        witness.subscribe(pattern)
    for who in ("pump-1", "cloud", "operator"):
        enter(who).publish(topic, b"forged", retain=True)
        assert b"forged" not in [payload for _, payload in witness.heard()]
    witness.leave()


def test_what_the_broker_says_of_itself_is_for_operators(yard: Yard, enter: Enter) -> None:
    heard = {}
    for who in ("operator", "pump-1", "cloud", "enrol", "claim-0123456789ab"):
        reader = enter(who)
        reader.subscribe("$SYS/#")
        heard[who] = {topic for topic, _ in reader.heard()}
    assert "$SYS/broker/version" in heard.pop("operator")
    assert set().union(*heard.values()) == set()


NAMES = (
    "+", "#", "+/+", "pump-1/#", "pump-1/status", "../pump-1", "pump-1/../pump-1", "/", "/pump-1", "pump-1/", "PUMP-1",
    "Pump-1", " pump-1", "pump-1 ", "%u", "%c", "$SYS", "$share/a/pump-1", "p" * 300, "pump-1" + " " * 300, "püm-1",
    "pump-1,pump-2", "pump-1\nuser pump-1", "witness#",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_a_strange_name_in_a_certificate_gives_no_right_to_another_s(
    yard: Yard, witness: Raw, enter: Enter, name: str
) -> None:
    file = f"strange-{NAMES.index(name)}"
    yard.authority.sign(name, file)
    victim = enter("pump-1")
    try:
        thief = Raw(yard.way, yard.certificate(file), "x")
    except OSError:
        return  # it did not even get in
    for right in RIGHTS:
        thief.publish(right.topic, b"forged", retain=True)
    # by its own name it may write, as PUMP-1 does, of which no agent and no aggregator takes notice
    assert [topic for topic, _ in witness.heard() if f"/{name}/" not in topic] == []
    cloud = enter("cloud")
    if thief.answer == 0 and thief.alive:
        for pattern in (RECEIPT, f"{TOP}/device/+/receipt", f"{TOP}/#", "#"):
            thief.subscribe(pattern)
        thief.heard()
        cloud.publish(RECEIPT, b"secret")
        cloud.publish(UPDATE, b"secret")
        assert [topic for topic, _ in thief.heard() if f"/{name}/" not in topic] == []
    thief.leave()
    assert victim.alive


def test_a_name_with_a_null_byte_is_nobody_s(yard: Yard, witness: Raw, enter: Enter) -> None:
    yard.authority.sign("pump-1\0.elsewhere", "null")
    victim = enter("pump-1")
    with suppress(OSError):
        thief = Raw(yard.way, yard.certificate("null"), "pump-1")
        assert thief.answer != 0
        thief.leave()
    assert victim.alive and witness.heard() == []


def test_the_largest_frame_passes_and_what_is_larger_does_not(yard: Yard, enter: Enter, way: str) -> None:
    witness = yard.connect("witness")
    witness.subscribe(OWN)
    others, big = enter("pump-1"), enter("pump-2", way)
    largest = bytes(MAX_HEADER + MAX_BODY + 8)
    assert big.publish(OWN, largest) == 0
    assert witness.heard() == [(OWN, largest)]
    assert big.publish(OWN, bytes(PACKET)) != 0
    assert witness.heard() == []
    assert others.alive
    # by a WebSocket mosquitto 2.0 takes it, and discards it
    assert big.alive == ((server.version() or ()) < (2, 1) and yard.by(way).socket)
    witness.leave()


@pytest.mark.parametrize("way", ["5", "5 in a WebSocket"])
def test_no_device_may_be_silent_for_ever(enter: Enter, way: str) -> None:
    assert enter("pump-1", way, keepalive=0).keepalive == 600
    assert enter("pump-1", way, keepalive=60).keepalive == 0  # it is as was asked for
