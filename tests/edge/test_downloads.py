"""Downloads: only what is missing comes, whatever was lost on the way, and nothing that is not what its name says."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from federations import TOPICS
from handmade import DEVICE, Cloud
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.edge.downloads import STALL, WINDOW, Download, Fetcher, here
from fedfleet.wire.chunks import Want, chunk_name, cut
from fedfleet.wire.errors import FrameError, StoreError
from fedfleet.wire.loopback import LoopbackBus
from fedfleet.wire.messages import CHUNK, Blob, decode


def data(chunks: float, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(int(chunks * CHUNK))


def names(content: bytes) -> list[str]:
    return [chunk_name(chunk) for chunk in cut(content)]


def packed(content: bytes) -> bytes:
    """What a manifest says of `content`."""
    return bytes.fromhex("".join(names(content)))


class Device:
    """A fetcher in `folder`, on a bus of its own."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.bus: LoopbackBus = cloud.hub.connect()
        self.fetcher = Fetcher(DEVICE, TOPICS, self.bus, folder, lambda: cloud.now)

    def step(self, blob: Blob) -> bool:
        for topic, payload in self.bus.deliveries(0):
            self.fetcher.take(topic, payload)
        return self.fetcher.fetch(blob)

    def finish(self, blob: Blob) -> None:
        for _ in range(2 * blob.chunks + 4):
            if self.step(blob):
                return
        raise AssertionError("not done")


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 9), st.lists(st.integers(1, 4), max_size=4))
def test_a_blob_comes_whole_however_often_the_device_loses_its_power(
    tmp_path_factory: pytest.TempPathFactory, chunks: float, lives: list[int]
) -> None:
    folder, cloud, content = tmp_path_factory.mktemp("blobs"), Cloud(), data(chunks)
    blob = cloud.blob(content)
    received = 0
    for steps in lives:
        device = Device(cloud, folder)
        for _ in range(steps):
            device.step(blob)
        received += device.bus.received
        device.bus.die()
    last = Device(cloud, folder)
    last.finish(blob)
    assert (folder / blob.digest).read_bytes() == content
    assert [path.name for path in folder.iterdir()] == [blob.digest]
    # each end costs at most the window, and the manifest once more
    assert received + last.bus.received <= len(content) + (len(lives) * (WINDOW + 1) + 1) * (CHUNK + 200) + 200 * 10


def test_no_more_than_the_window_is_asked_for(tmp_path: Path) -> None:
    cloud = Cloud()
    content = data(9)
    blob = cloud.blob(content)
    device = Device(cloud, tmp_path)
    device.step(blob)
    device.step(blob)
    assert len(device.fetcher._asked) == WINDOW
    arrived = device.bus.deliveries(0)
    assert [topic for topic, _ in arrived] == [TOPICS.chunk(name) for name in names(content)[:WINDOW]]


def test_equal_chunks_of_another_version_do_not_come_again(tmp_path: Path) -> None:
    cloud, old = Cloud(), data(8)
    new = old[:CHUNK] + data(1, 1) + old[2 * CHUNK : 5 * CHUNK] + data(0.5, 2) + old[5 * CHUNK :]
    first, second = cloud.blob(old), cloud.blob(new)
    device = Device(cloud, tmp_path)
    device.finish(first)
    received = device.bus.received
    device.finish(second)
    assert (tmp_path / second.digest).read_bytes() == new
    # chunks 0 and 2 to 4 are where they were; what stands behind the insertion has moved by half a chunk
    assert device.bus.received - received < 5 * (CHUNK + 100) + 500


def test_a_chunk_that_a_blob_has_twice_comes_once(tmp_path: Path) -> None:
    cloud, content = Cloud(), bytes(6 * CHUNK) + data(1)
    blob = cloud.blob(content)
    device = Device(cloud, tmp_path)
    device.finish(blob)
    assert (tmp_path / blob.digest).read_bytes() == content
    assert device.bus.received < 2 * CHUNK + 1000


def test_unsynced_bytes_that_a_power_cut_took_are_fetched_again(tmp_path: Path) -> None:
    cloud, content = Cloud(), data(6)
    blob = cloud.blob(content)
    device = Device(cloud, tmp_path)
    for _ in range(3):
        device.step(blob)
    part = tmp_path / f"{blob.digest}.part"
    torn = bytearray(part.read_bytes())
    torn[: CHUNK // 2] = bytes(CHUNK // 2)
    part.write_bytes(torn[: 5 * CHUNK])
    again = Device(cloud, tmp_path)
    again.finish(blob)
    assert (tmp_path / blob.digest).read_bytes() == content


def test_what_a_broker_forgot_is_asked_for_more_and_more_seldom(tmp_path: Path) -> None:
    cloud, content = Cloud(), data(5)
    blob = cloud.blob(content)
    cloud.bus.subscribe(TOPICS.want())
    lost = cloud.hub.retained.pop(TOPICS.chunk(names(content)[4]))
    device = Device(cloud, tmp_path)
    at: list[float] = []
    for _ in range(1500):
        assert not device.step(blob)
        cloud.now += 1.0
        for topic, payload in cloud.bus.deliveries(0):
            assert topic == TOPICS.want(DEVICE)
            assert decode(Want, payload) == Want((names(content)[4],))
            at.append(cloud.now)
    pauses = [b - a for a, b in pairwise(at)]
    assert pauses[0] >= STALL[0]
    assert all(STALL[1] * 0.5 <= pause <= STALL[1] * 1.5 + 1 for pause in pauses[6:])
    cloud.bus.publish(TOPICS.chunk(names(content)[4]), lost, retain=True)
    device.finish(blob)


def test_a_manifest_that_does_not_come_is_asked_for_by_the_blobs_name(tmp_path: Path) -> None:
    cloud = Cloud()
    blob = cloud.blob(data(2))
    cloud.bus.subscribe(TOPICS.want())
    cloud.hub.retained.pop(TOPICS.manifest(blob.digest))
    device = Device(cloud, tmp_path)
    device.step(blob)
    cloud.now += STALL[0] + 1
    device.step(blob)
    assert [decode(Want, payload) for _, payload in cloud.bus.deliveries(0)] == [Want((blob.digest,))]


def test_a_manifest_that_lies_costs_a_second_try(tmp_path: Path) -> None:
    cloud, content, other = Cloud(), data(3), data(3, 5)
    blob = Blob.of(content)
    download = Download(blob, tmp_path)
    download.begin(packed(other))
    for name, chunk in zip(names(other), cut(other)):
        download.take(name, chunk)
    with pytest.raises(FrameError, match="other bytes than its name says"):
        download.finish()
    assert list(tmp_path.iterdir()) == []
    cloud.blob(content)
    Device(cloud, tmp_path).finish(blob)


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c + b"x", lambda c: b"x" + c[1:], lambda c: b""])
def test_a_chunk_that_is_not_what_its_name_says_is_not_written(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    content = data(2)
    download = Download(Blob.of(content), tmp_path)
    download.begin(packed(content))
    with pytest.raises(FrameError, match="other bytes than its name says"):
        download.take(names(content)[0], damage(cut(content)[0]))
    assert download.wanted(9) == names(content)


def test_what_nobody_asked_for_is_nothing(tmp_path: Path) -> None:
    cloud = Cloud()
    device = Device(cloud, tmp_path)
    device.fetcher.take(TOPICS.chunk("ab" * 16), b"x")
    device.step(cloud.blob(data(2)))
    device.fetcher.take(TOPICS.chunk("ab" * 16), b"x")
    assert device.fetcher._asked == {TOPICS.manifest(Blob.of(data(2)).digest)}


@pytest.mark.parametrize("content", [bytes(100), bytes(2 * CHUNK + 7), bytes(CHUNK) + data(1) + bytes(9)])
@pytest.mark.parametrize("begun", [b"", b"x", bytes(5)])
def test_zeros_need_not_come_whether_the_file_is_new_or_not(tmp_path: Path, content: bytes, begun: bytes) -> None:
    blob = Blob.of(content)
    (tmp_path / f"{blob.digest}.part").write_bytes(begun)
    download = Download(blob, tmp_path)
    download.begin(packed(content))
    wanted = [name for name, chunk in zip(names(content), cut(content)) if any(chunk)]
    assert download.wanted(9) == ([names(content)[0], *wanted] if begun == b"x" else wanted)
    for name, chunk in zip(names(content), cut(content)):
        download.take(name, chunk)
    download.finish()
    assert (tmp_path / blob.digest).read_bytes() == content


def test_an_only_chunk_is_checked_by_the_name_of_its_blob(tmp_path: Path) -> None:
    content = data(0.5)
    download = Download(Blob.of(content), tmp_path)
    with pytest.raises(FrameError, match="other bytes than its name says"):
        download.take(names(content)[0], b"x" + content[1:])
    assert download.wanted(9) == names(content)


def test_what_stands_where_a_blob_should_is_not_one(tmp_path: Path) -> None:
    blob = Blob.of(data(1))
    assert here(tmp_path / "nowhere", blob) is None
    (tmp_path / "file").write_bytes(b"x")
    assert here(tmp_path / "file", blob) is None
    (tmp_path / blob.digest).mkdir()
    assert here(tmp_path, blob) is None


def test_another_blob_ends_the_subscriptions_of_the_one_before(tmp_path: Path) -> None:
    cloud = Cloud()
    first, second = cloud.blob(data(9)), cloud.blob(data(1, 1))
    device = Device(cloud, tmp_path)
    for _ in range(2):
        device.step(first)
    device.bus.deliveries(0)
    device.finish(second)
    received = device.bus.received
    cloud.blob(data(9))
    device.bus.deliveries(0)
    assert device.bus.received == received


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    content = data(2)
    (tmp_path / f"{Blob.of(content).digest}.part").mkdir()
    with pytest.raises(StoreError, match=r"part cannot be written: Is a directory; free the disk or check it"):
        Download(Blob.of(content), tmp_path).begin(packed(content))
