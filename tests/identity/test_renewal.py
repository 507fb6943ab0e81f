"""A device's next certificate: asked for in time, with a new key, while it works, and in place by one rename."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from brokers import needs_mosquitto
from certificates import needs_openssl
from identities import FLEET, claim, desk, made, world
from processes import until

from fedfleet.cloud.identity import authority, revocation
from fedfleet.cloud.identity.desk import Desk
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.edge.enrol import Asking, Claim
from fedfleet.edge.identity import Identity, Known, read
from fedfleet.edge.renewing import REST, Renewing
from fedfleet.wire.enrolment import BACKDATED, Enrolled, pack_enrolled
from fedfleet.wire.errors import StoreError
from fedfleet.wire.loopback import Hub
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.topics import Topics

pytestmark = needs_openssl
TOPICS = Topics(FLEET)
DAY = 86_400.0


class Life:
    """A device that is enrolled, at a hub in this process, and a calendar that a test turns."""

    def __init__(self, base: Path) -> None:
        self.base, self.now, self.hub = base, time.time(), Hub()
        self.pki, self.identity = made(base / "pki"), Identity(base / "identity.pem", "pump-1")
        self.ledger = Ledger(self.pki)
        signer = authority.of(self.pki, self.now)
        self.desk = Desk(FLEET, signer, self.ledger, self.hub.connect(), lambda: self.now)
        enrol(self.desk, self.hub, self.identity, claim(self.pki, base / "claim.pem"), lambda: self.now)
        self.bus = self.fresh()

    def fresh(self) -> Renewing:
        return Renewing(self.hub.connect(), self.identity, TOPICS, lambda: self.now, lambda: self.now)

    def turn(self, days: float) -> None:
        """Let so many days go by, then ask and answer what is to be."""
        self.now += days * DAY
        for _ in range(2):
            self.bus.deliveries(0)
            self.desk.step(0)
        self.bus.deliveries(0)

    def serials(self) -> list[str]:
        return [each.serial for each in self.ledger.certificates() if each.name == "pump-1"]


def enrol(at: Desk, hub: Hub, identity: Identity, path: Path, clock: object) -> None:
    bus, by = hub.connect(), Claim(path).name
    asking = Asking(identity, TOPICS, by, "", str(path), clock)  # type: ignore[arg-type]
    bus.subscribe(asking.answers)
    assert not asking.step(bus, [])
    at.step(0)
    assert asking.step(bus, [payload for _, payload in bus.deliveries(0)])
    bus.close()


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    found = Life(tmp_path)
    yield found
    found.ledger.close()


def test_nothing_is_asked_before_the_last_third(life: Life) -> None:
    whole = life.identity.path.read_bytes()
    life.turn(0)
    life.turn(730 * 2 / 3 - 1)
    assert life.identity.path.read_bytes() == whole
    assert len(life.serials()) == 1


def test_the_next_one_has_a_new_key_and_lasts_as_long(life: Life) -> None:
    before = life.identity.known()
    life.turn(730 * 5 / 6)
    after = life.identity.known()
    assert len(life.serials()) == 2
    assert (after.name, after.ends - after.begins) == (before.name, before.ends - before.begins)
    assert after.public != before.public
    assert after.ends > life.now + 729 * DAY
    assert sorted(path.name for path in life.base.glob("identity.pem*")) == ["identity.pem"]
    life.turn(10)
    assert len(life.serials()) == 2
    life.turn(730 * 5 / 6)
    assert len(life.serials()) == 3


@pytest.mark.parametrize("name", [f"pump-{number}" for number in range(20)])
def test_each_device_has_a_moment_of_its_own_in_the_first_half_of_the_last_third(name: str) -> None:
    known = Known(name, b"", -BACKDATED, 730 * DAY)
    assert 730 * 2 / 3 <= known.due() / DAY <= 730 * 5 / 6


def test_the_moments_of_a_fleet_are_spread() -> None:
    days = [Known(f"pump-{number}", b"", -BACKDATED, 730 * DAY).due() / DAY for number in range(200)]
    assert max(days) - min(days) > 100


def test_a_certificate_of_a_short_life_is_renewed_as_well() -> None:
    assert 60 <= Known("d", b"", 0, 90).due() <= 75
    assert 60 <= Known("d", b"", -BACKDATED, 90).due() <= 75


def test_other_messages_go_their_way(life: Life) -> None:
    life.bus.subscribe(TOPICS.task)
    talker = life.hub.connect()
    talker.publish(TOPICS.task, b"task")
    talker.publish(TOPICS.answer("pump-1"), pack_enrolled(Enrolled("refused", "not now")))
    assert life.bus.deliveries(0) == [(TOPICS.task, b"task")]
    life.bus.unsubscribe(TOPICS.task)
    talker.publish(TOPICS.task, b"task")
    assert life.bus.deliveries(0) == []
    sent = life.bus.sent
    life.bus.publish("topic", b"123")
    assert (life.bus.sent - sent, life.bus.pending, life.bus.connections) == (8, 0, 1)
    life.bus.close()
    assert life.bus._bus not in life.hub.buses


def test_a_device_that_was_killed_over_it_asks_for_the_same_again(life: Life) -> None:
    life.now += 730 * 5 / 6 * DAY
    life.bus.deliveries(0)
    life.desk.step(0)  # the answer is lost
    assert len(life.serials()) == 2
    life.bus.close()
    life.bus = life.fresh()
    life.turn(0)
    assert len(life.serials()) == 2
    pems = {each.pem for each in life.ledger.certificates() if each.name == "pump-1"}
    assert sum(life.identity.path.read_text().startswith(pem) for pem in pems) == 1
    assert life.identity.known().ends > life.now + 729 * DAY


def test_an_answer_that_does_not_fit_changes_nothing(life: Life) -> None:
    whole = life.identity.path.read_bytes()
    life.now += 730 * 5 / 6 * DAY
    life.bus.deliveries(0)
    chain = (
        authority.of(life.pki, time.time())
        .client("pump-1", authority.new_key().public_key(), life.now, timedelta(days=1))
        .pem
    )
    for answer in (Enrolled("issued", "", chain), Enrolled("issued", "", b"x"), Enrolled("pending", "wait")):
        life.hub.connect().publish(TOPICS.answer("pump-1"), pack_enrolled(answer))
        life.bus.deliveries(0)
        assert life.identity.path.read_bytes() == whole


def test_a_disk_that_refuses_does_not_stop_the_agent(life: Life) -> None:
    way = life.base / "identity.pem.pump-1"
    way.mkdir()  # nothing can be written there
    life.turn(730 * 5 / 6)
    assert len(life.serials()) == 1
    way.rmdir()
    life.turn(REST / DAY + 0.1)
    assert len(life.serials()) == 2


def test_a_device_that_was_revoked_gets_no_next_one(life: Life) -> None:
    revocation.revoke(life.pki, "pump-1", life.now)
    life.turn(730 * 5 / 6)
    assert len(life.serials()) == 1


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "identity.pem").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"identity.pem holds no certificate: .* enrol this device anew"):
        Identity(tmp_path / "identity.pem", "pump-1").known()


@needs_mosquitto
def test_over_a_real_broker_the_link_holds_and_the_next_one_is_made_with_the_new_certificate(tmp_path: Path) -> None:
    with world(tmp_path) as fleet, desk(fleet) as at:
        identity, path = Identity(tmp_path / "identity.pem", "pump-1"), claim(fleet.pki, tmp_path / "claim.pem")
        asked = MqttBus(fleet.as_(path), by := Claim(path).name)
        asking = Asking(identity, TOPICS, by, "", str(path), time.monotonic)
        asked.subscribe(asking.answers)
        assert until(lambda: (at.step(0.02), asking.step(asked, [got for _, got in asked.deliveries(0.02)]))[1])
        asked.close()
        first = read(identity.path.read_bytes())
        link = MqttBus(fleet.as_(identity.path), "pump-1")
        bus = Renewing(link, identity, TOPICS, calendar=lambda: time.time() + 700 * DAY)

        def renewed() -> bool:
            at.step(0.02)
            bus.deliveries(0.02)
            return read(identity.path.read_bytes()).public != first.public

        assert until(renewed)
        assert link.connections == 1
        ledger = Ledger(fleet.pki)
        assert len(ledger.live("pump-1", time.time())) == 2
        ledger.close()
        link.close()
        again = MqttBus(replace(fleet.as_(identity.path), keepalive=30), "pump-1")
        assert again.connections == 1
        again.close()


def test_what_is_asked_for_by_a_short_life_is_issued_for_it(tmp_path: Path) -> None:
    pki, hub, now = made(tmp_path / "pki"), Hub(), time.time()
    ledger = Ledger(pki)
    at = Desk(FLEET, authority.of(pki, now), ledger, hub.connect(), lambda: now, timedelta(days=7))
    identity = Identity(tmp_path / "identity.pem", "pump-1")
    enrol(at, hub, identity, claim(pki, tmp_path / "claim.pem"), lambda: now)
    assert 6.9 * DAY < identity.known().ends - now <= 7 * DAY
    ledger.close()
