"""What the cloud has the broker retain: each chunk once, in order, no faster than the link, and nothing left behind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from federations import TOPICS
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.journal import Journal
from fedfleet.cloud.outbox import AGAIN, AHEAD, Outbox
from fedfleet.wire.chunks import chunk_name, cut, open_manifest
from fedfleet.wire.errors import StoreError
from fedfleet.wire.loopback import Hub, LoopbackBus
from fedfleet.wire.messages import CHUNK, Blob


class Slow(LoopbackBus):
    """A link whose broker acknowledges when it is told to."""

    pending = 0

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Keep count of what is not acknowledged."""
        self.pending += 1
        super().publish(topic, payload, retain=retain)


class Cloud:
    """An outbox, its journal, and the hub that retains."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.hub = Hub()
        self.journal = Journal(folder)
        self.bus = Slow(self.hub, None)
        self.start()

    def start(self) -> None:
        """An aggregator that knows of none before it."""
        self.box = Outbox(self.bus, TOPICS, self.journal.blobs, lambda: self.now)

    def flush(self) -> None:
        while not self.box.idle:
            self.bus.pending = 0
            self.box.step()

    def put(self, content: bytes) -> Blob:
        blob = self.journal.blobs.put(content)
        self.box.put(blob)
        self.flush()
        return blob

    def drop(self, blob: Blob) -> None:
        self.box.drop(blob)
        self.flush()


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def data(chunks: float, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(int(chunks * CHUNK))


def retained(*contents: bytes) -> dict[str, bytes]:
    return {TOPICS.chunk(chunk_name(chunk)): chunk for content in contents for chunk in cut(content)}


def without_manifests(cloud: Cloud) -> dict[str, bytes]:
    return {topic: payload for topic, payload in cloud.hub.retained.items() if "/chunk/" in topic}


def test_a_blob_is_retained_in_chunks_behind_its_manifest(cloud: Cloud) -> None:
    content = data(3.5)
    blob = cloud.put(content)
    assert without_manifests(cloud) == retained(content)
    frame = cloud.hub.retained[TOPICS.manifest(blob.digest)]
    assert open_manifest(blob, frame).hex() == "".join(chunk_name(chunk) for chunk in cut(content))
    small = cloud.put(b"small")
    assert TOPICS.manifest(small.digest) not in cloud.hub.retained
    assert cloud.hub.retained[TOPICS.chunk(small.digest[:32])] == b"small"


def test_no_more_is_handed_over_than_the_link_carries_away(cloud: Cloud) -> None:
    cloud.box.put(cloud.journal.blobs.put(data(3 * AHEAD)))
    cloud.box.step()
    assert len(cloud.hub.retained) == AHEAD
    cloud.box.step()
    assert len(cloud.hub.retained) == AHEAD
    cloud.bus.pending = AHEAD - 1
    cloud.box.step()
    assert len(cloud.hub.retained) == AHEAD + 1
    assert not cloud.box.idle


def test_the_task_comes_after_what_it_names(cloud: Cloud) -> None:
    blob = cloud.journal.blobs.put(data(AHEAD))
    cloud.box.put(blob)
    cloud.box.say(TOPICS.task, b"task")
    cloud.box.step()
    assert TOPICS.task not in cloud.hub.retained
    cloud.flush()
    assert list(cloud.hub.retained)[-1] == TOPICS.task


def test_equal_chunks_are_sent_once_and_cleared_with_the_last_that_needs_them(cloud: Cloud) -> None:
    old = data(6)
    new = old[: 4 * CHUNK] + data(2, 1)
    first = cloud.put(old)
    sent = cloud.bus.sent
    second = cloud.put(new)
    assert cloud.bus.sent - sent < 2 * CHUNK + 1000
    cloud.drop(first)
    assert without_manifests(cloud) == retained(new)
    assert TOPICS.manifest(first.digest) not in cloud.hub.retained
    cloud.drop(second)
    assert cloud.hub.retained == {}


def test_what_an_earlier_aggregator_left_is_cleared_but_for_what_is_wanted(cloud: Cloud) -> None:
    old = data(4)
    new = old[: 2 * CHUNK] + data(2, 1)
    first = cloud.put(old)
    cloud.start()
    cloud.put(new)
    cloud.drop(first)
    assert without_manifests(cloud) == retained(new)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=12))
def test_what_is_retained_is_what_is_wanted(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[int, bool, bool]]
) -> None:
    shared = data(1)
    contents = [shared + data(2, 1), data(1, 2) + shared, b"small", data(2, 3)]
    cloud, wanted = Cloud(tmp_path_factory.mktemp("journal")), set()
    for which, put, at_once in acts:
        blob = cloud.journal.blobs.put(contents[which])
        (cloud.box.put if put else cloud.box.drop)(blob)
        (wanted.add if put else wanted.discard)(which)
        if at_once:
            cloud.flush()
    cloud.flush()
    assert without_manifests(cloud) == retained(*(contents[which] for which in wanted))
    manifests = {TOPICS.manifest(Blob.of(contents[which]).digest) for which in wanted if which != 2}
    assert {topic for topic in cloud.hub.retained if "/blob/" in topic} == manifests


def test_what_a_device_misses_is_said_again_with_all_that_belongs_to_it_once_in_a_while(cloud: Cloud) -> None:
    content, other = data(3), data(2, 1)
    blob, _ = cloud.put(content), cloud.put(other)
    second = chunk_name(cut(content)[1])
    for missed in ((second,), (blob.digest,), (second, blob.digest, "ab" * 16)):
        cloud.hub.retained.clear()
        cloud.now += AGAIN
        cloud.box.repeat(missed)
        cloud.flush()
        assert without_manifests(cloud) == retained(content)
        assert TOPICS.manifest(blob.digest) in cloud.hub.retained
        if missed == (second,):
            assert next(iter(without_manifests(cloud))) == TOPICS.chunk(second)
        cloud.hub.retained.clear()
        cloud.box.repeat(missed)
        cloud.flush()
        assert cloud.hub.retained == {}
    cloud.now += AGAIN
    cloud.box.repeat(("ab" * 16, "cd" * 32))
    cloud.flush()
    assert cloud.hub.retained == {}


def test_a_new_link_hears_the_task_again(cloud: Cloud) -> None:
    cloud.box.say(TOPICS.task, b"first")
    cloud.box.say(TOPICS.task, b"newest")
    cloud.flush()
    cloud.hub.retained.clear()
    cloud.box.step()
    assert cloud.hub.retained == {}
    cloud.bus.connections += 1
    cloud.box.step()
    assert cloud.hub.retained == {TOPICS.task: b"newest"}


def test_a_journal_that_has_rotted_is_not_sent(cloud: Cloud, tmp_path: Path) -> None:
    blob = cloud.journal.blobs.put(data(2))
    cloud.box.put(blob)
    path = tmp_path / "blobs" / blob.digest
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(StoreError, match="on the disk is damaged; restore a backup"):
        cloud.box.step()
