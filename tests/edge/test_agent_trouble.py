"""An agent whose disk is full, or whose broker takes small packets alone: it stays up and says why."""

from __future__ import annotations

import errno
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from federations import TOPICS
from handmade import DEVICE, Cloud, P, steps

from fedfleet.edge.agent import REST, Agent
from fedfleet.edge.state import State
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.errors import TooLarge
from fedfleet.wire.loopback import LoopbackBus


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


class Full(LoopbackBus):
    """A bus to a broker that takes small packets alone."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Refuse what is over 1,000 bytes."""
        if len(payload) > 1000:
            raise TooLarge("65,700 bytes on update, and the broker takes 1,000: raise its max_packet_size")
        super().publish(topic, payload, retain=retain)


def test_a_broker_that_takes_no_part_of_an_update_is_named_and_the_agent_stays_up(cloud: Cloud, tmp_path: Path) -> None:
    state = State(tmp_path)
    state.begin()
    bus = Full(cloud.hub, None)
    cloud.hub.buses.append(bus)
    agent = Agent(DEVICE, TOPICS, bus, state, SeededTrainer(DEVICE), lambda: cloud.now)
    cloud.task(1)
    steps(agent)
    assert cloud.heard() == [1]
    cloud.receipt(1, "missing", missing=(0,))
    steps(agent)
    said = cloud.status()
    assert (said.declined, said.reason) == (
        1,
        "65,700 bytes on update, and the broker takes 1,000: raise its max_packet_size",
    )
    cloud.now += REST[0] + 1
    cloud.receipt(1, "counted")
    steps(agent)
    assert state.spool.offer(1) is None


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts of the names of files and folders that the disk has no room for."""
    real, names = os.fsync, list[str]()

    def fsync(handle: int) -> None:
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        if any(name in path for name in names):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


@pytest.mark.parametrize("where", ["blobs", "spool"])
def test_a_disk_that_refuses_is_named_and_tried_less_and_less_often(
    cloud: Cloud, tmp_path: Path, where: str, full: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    agent, _ = cloud.device(tmp_path)
    full.append(where)
    cloud.task(1)
    tries = []
    for _ in range(3000):
        agent.step(0)
        tries += [cloud.now] * len([one for one in caplog.records if "trying again in" in one.getMessage()])
        caplog.clear()
        cloud.now += 1
    pauses = [b - a for a, b in pairwise(tries)]
    assert (pauses[0], pauses[-1]) == pytest.approx((REST[0], REST[1]), abs=2)
    assert "No space left on device" in cloud.status().reason
    assert cloud.status().declined == 1
    full.clear()
    cloud.now += REST[1]
    steps(agent)
    assert cloud.heard() == [1]
    assert State(tmp_path).round == 1


def test_an_update_is_sent_though_the_disk_has_no_room_to_remember_it(
    cloud: Cloud, tmp_path: Path, full: list[str]
) -> None:
    agent, bus = cloud.device(tmp_path)
    full.append("memory.json")
    cloud.task(1)
    steps(agent)
    assert cloud.heard() == []
    cloud.now += REST[0] + 1
    steps(agent)
    (first,) = cloud.offers()
    bus.die()
    full.clear()
    again, _ = cloud.device(tmp_path)  # which does not know that it has trained: it comes to the same
    steps(again)
    (second,) = cloud.offers()
    assert first.blob == second.blob
    assert State(tmp_path).round == 1


def test_a_week_without_the_cloud_and_with_a_failing_disk_is_survived_within_the_spools_bound(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, failing, real = random.Random(7), list[int](), os.fsync

    def fsync(handle: int) -> None:
        if failing and str(tmp_path) in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(failing[0], os.strerror(failing[0]))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    room = 4 * P + 2000
    state = State(tmp_path, room)
    state.begin()
    bus = cloud.hub.connect()
    agent = Agent(DEVICE, TOPICS, bus, state, SeededTrainer(DEVICE), lambda: cloud.now)
    reasons, offers, number = set(), 0, 0
    for minute in range(7 * 24 * 60):
        if minute % 720 == 0:  # what little comes down asks for a new round; nothing that goes up is answered
            number += 1
            cloud.task(number)
        failing[:] = chance.choice([[], [], [errno.ENOSPC], [errno.EROFS]]) if minute % 60 == 0 else failing
        steps(agent, 3)
        offers += len(cloud.heard())
        assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) <= room + 1000
        reasons.add(cloud.status().reason.partition("cannot be written: ")[2].partition(";")[0] if cloud.said() else "")
        cloud.now += 60
    failing.clear()
    assert {"No space left on device", "Read-only file system"} <= reasons
    assert 14 <= offers < 7 * 24 * 20
    cloud.task(number + 1)
    cloud.now += REST[1]
    steps(agent, 10)
    (offered,) = cloud.offers()
    assert offered.round == number + 1
    assert offered.metrics["dropped"] >= 5
    assert len(cloud.collect(agent, number + 1, (0, 1, 2))) == 4 * P
