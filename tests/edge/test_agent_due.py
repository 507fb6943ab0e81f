"""When an agent wants to be stepped though nothing arrives: who steps it then only, misses nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from handmade import Cloud, steps

from fedfleet.edge.agent import REST
from fedfleet.edge.downloads import STALL
from fedfleet.edge.uploads import RESEND, SOON
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, Plan, Task, Update, encode


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


class Full:
    """A trainer on a disk that is full."""

    def train(self, *_: object) -> Update | None:
        raise StoreError("no room")

    def close(self) -> None: ...


class Stopped(Full):
    """A trainer that always was stopped."""

    def train(self, *_: object) -> Update | None:
        return None


def test_without_a_task_there_is_nothing_to_do(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    agent.step(0)
    assert agent.due() == math.inf


def test_who_is_not_called_is_done_at_once(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1, share=1e-9)
    agent.step(0)
    agent.step(0)
    assert agent.due() == math.inf


def test_a_download_that_stalls_is_due_when_it_complains(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    nowhere = Blob.of(b"never retained")
    cloud.bus.publish("fedfleet/v1/test/task", encode(Task(1, nowhere, nowhere, Plan())), retain=True)
    agent.step(0)
    assert agent.due() == cloud.now + STALL[0]
    cloud.now = agent.due() - 0.1
    sent = bus.sent
    agent.step(0)
    assert bus.sent == sent
    cloud.now += 0.1
    agent.step(0)
    assert bus.sent > sent
    assert cloud.now + STALL[0] <= agent.due() <= cloud.now + 3 * STALL[0]


def test_an_offer_is_due_again_until_its_receipt(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent, 12)
    assert cloud.heard() == [1]
    assert 0.75 * RESEND[0] <= agent.due() - cloud.now <= 1.25 * RESEND[0]
    cloud.now = agent.due() - 0.1
    agent.step(0)
    assert cloud.heard() == []
    cloud.now += 0.1
    agent.step(0)
    assert cloud.heard() == [1]
    cloud.receipt(1, "counted")
    agent.step(0)
    assert agent.due() == math.inf


def test_a_new_link_makes_the_offer_due(cloud: Cloud, tmp_path: Path) -> None:
    agent, bus = cloud.device(tmp_path)
    cloud.task(1)
    steps(agent, 12)
    cloud.heard()
    bus.connections += 1
    assert agent.due() <= cloud.now
    agent.step(0)
    assert agent.due() <= cloud.now + SOON
    cloud.now += SOON
    agent.step(0)
    assert cloud.heard() == [1]


def test_a_training_that_was_stopped_is_work_at_hand(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path, Stopped())
    cloud.task(1)
    steps(agent, 12)
    assert agent.due() <= cloud.now


def test_a_disk_that_refuses_is_left_alone(cloud: Cloud, tmp_path: Path) -> None:
    agent, _ = cloud.device(tmp_path, Full())
    cloud.task(1)
    steps(agent, 12)
    assert agent.due() == cloud.now + REST[0]
