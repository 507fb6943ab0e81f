"""The way down: devices that have the last weights get what changed, the others the whole, and all train on the same."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from federations import DEADLINE, PROGRAM, SEED, TOPICS, P, World, world
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.downlink import published
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.wire.codecs import grow
from fedfleet.wire.messages import Blob, Plan, Task, decode

CODEC = "int8"
CODED = Rounds(total=4, devices=3, deadline=DEADLINE, downlink=CODEC)


def task(found: World) -> Task:
    return decode(Task, found.hub.retained[TOPICS.task])


def weights(journal: Journal, named: Task) -> np.ndarray:  # type: ignore[type-arg]
    return np.frombuffer(journal.blobs.get(named.weights.digest), "<f4")


def test_what_is_published_follows_the_model_within_a_step_of_the_codec(tmp_path: Path) -> None:
    journal, chance = Journal(tmp_path), np.random.default_rng(0)
    exact, last = np.zeros(1000, np.float32), None
    for number in range(1, 12):
        exact = exact + chance.normal(0, 0.01, 1000).astype(np.float32)
        blob, patch = published(journal, exact, last, CODEC, number)
        assert (patch is None) is (last is None)
        named = Task(number, Blob.of(PROGRAM), blob, Plan(), patch=patch)
        if patch and last:
            assert patch.base == last.weights.digest
            change = grow(CODEC, journal.blobs.get(patch.blob.digest), 1000)
            assert (weights(journal, last) + change).tobytes() == journal.blobs.get(blob.digest)
            assert patch.blob.size < 1100
        assert np.abs(weights(journal, named) - exact).max() < 0.05 / 100
        last = named


def test_without_a_codec_the_weights_are_published_as_they_are(tmp_path: Path) -> None:
    journal, exact = Journal(tmp_path), np.linspace(0, 1, 50, dtype=np.float32)
    last = Task(1, Blob.of(PROGRAM), journal.blobs.put(bytes(200)), Plan())
    assert published(journal, exact, last, "", 2) == (Blob.of(exact.tobytes()), None)
    other = Task(1, Blob.of(PROGRAM), journal.blobs.put(bytes(120)), Plan())  # a model of another size
    assert published(journal, exact, other, CODEC, 2) == (Blob.of(exact.tobytes()), None)


@pytest.fixture(scope="module")
def undisturbed() -> str:
    with world(rounds=CODED) as found:
        return found.play()


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=50))
def test_whoever_dies_wherever_the_model_is_the_same(undisturbed: str, schedule: list[int]) -> None:
    with world(rounds=CODED) as found:
        found.until(1)
        for actor in schedule:
            if found.cloud.done:
                break
            if actor == 7:
                found.cloud_dies()
                found.cloud_starts()
            elif actor <= 3:
                found.act(actor)
            else:
                found.device_dies(f"d{actor - 4}")
                found.device_starts(f"d{actor - 4}")
        assert found.play() == undisturbed
        found.cloud.retire()
        assert found.blobs() == set()


def test_patched_devices_take_few_bytes_and_a_new_one_takes_the_whole() -> None:
    program = random.Random(1).randbytes(100)
    with world(
        devices=2, rounds=Rounds(total=4, devices=2, deadline=DEADLINE, downlink=CODEC), program=program
    ) as found:
        found.until(2)
        named = task(found)
        assert named.patch is not None
        received = found.agents["d0"][1].received
        found.device_dies("d1")
        found.device_starts("d1")
        (found.folder / "d1" / "blobs" / named.patch.base).unlink()
        found.until(3)
        assert [record.reported for record in found.records] == [2, 2]
        patched = found.agents["d0"][1].received - received
        whole = found.agents["d1"][1].received
        assert patched < whole
        for device in ("d0", "d1"):
            assert (found.folder / device / "blobs" / named.weights.digest).stat().st_size == 4 * P


def test_a_patch_that_leads_elsewhere_costs_the_whole_and_not_the_round() -> None:
    with world(devices=1, rounds=Rounds(total=2, devices=1, deadline=DEADLINE, downlink=CODEC)) as found:
        found.until(2)
        named = task(found)
        assert named.patch is not None
        base = found.folder / "d0" / "blobs" / named.patch.base
        base.write_bytes(bytes(base.stat().st_size))  # it has rotted
        found.play()
        assert [record.reported for record in found.records] == [1, 1]
        assert (found.folder / "d0" / "blobs" / named.weights.digest).is_file()
        assert found.now < DEADLINE
        assert found.cloud._federation.seed == SEED
