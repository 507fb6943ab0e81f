"""A published release on the broker: what is retained, in which order, and what is cleared when another takes its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ota.boards import bundle_of
from ota.devices import TOPICS
from ota.owners import Owner

from fedfleet.cloud.releases.published import Published, listed, publish, published
from fedfleet.cloud.releases.serving import Serving
from fedfleet.wire.errors import SettingsError, StoreError
from fedfleet.wire.loopback import Hub
from fedfleet.wire.messages import decode
from fedfleet.wire.release import Release

BIG = bytes(range(256)) * 2


class Shelf:
    """A repository with versions 1.0.0 and 2.0.0, and a broker in memory."""

    def __init__(self, folder: Path) -> None:
        self.owner = Owner(folder / "owner")
        self.hub = Hub()
        self.now = 0.0
        for version in ("1.0.0", "2.0.0"):
            files = {"a.py": b"1", f"v{version}.bin": version.encode() * 9}
            self.owner.release(bundle_of(folder / version, version, {"agent": files}))
        self.start()

    def start(self) -> None:
        """A new life of the aggregator."""
        self.serving = Serving(self.owner.repo, self.hub.connect(), TOPICS, lambda: self.now)

    def step(self) -> set[str]:
        """Let it look and say all; returns the topics that are retained."""
        self.now += 1.0
        for _ in range(20):
            self.serving.step()
        return set(self.hub.retained)

    def message(self) -> Release:
        return decode(Release, self.hub.retained[TOPICS.release])


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_nothing_is_said_before_something_is_published(shelf: Shelf) -> None:
    assert shelf.step() == set()
    assert published(shelf.owner.repo) is None


def test_the_message_comes_after_all_that_it_takes(shelf: Shelf) -> None:
    publish(shelf.owner.repo, Published("2.0.0", ("line-1",), 0.5))
    heard = shelf.hub.connect()
    heard.subscribe(TOPICS.release)
    for topic in ("chunk/+", "blob/+"):
        heard.subscribe(f"fedfleet/v1/mill/{topic}")
    shelf.step()
    topics = [topic for topic, _ in heard.deliveries(0)]
    assert topics[-1] == TOPICS.release and topics.count(TOPICS.release) == 1
    message = shelf.message()
    assert (message.version, message.groups, message.share, message.roots) == ("2.0.0", ("line-1",), 0.5, None)
    names = {
        blob.digest[:32] for each in listed(shelf.owner.repo) if each.version == "2.0.0" for blob in each.files.values()
    }
    assert {TOPICS.chunk(name) for name in names} <= set(topics)
    assert len(topics) == 1 + 3 + len(names)


def test_what_another_release_does_not_need_is_cleared_also_after_a_new_start(shelf: Shelf) -> None:
    publish(shelf.owner.repo, Published("1.0.0"))
    first = shelf.step()
    shelf.start()
    publish(shelf.owner.repo, Published("2.0.0"))
    second = shelf.step()
    kept = {TOPICS.release, *(TOPICS.chunk(path.name[:32]) for path in (shelf.owner.repo / "blobs").iterdir())}
    assert second == kept
    assert len(first - second) == 2  # its release.json and its wheel


def test_a_new_timestamp_and_new_roots_are_handed_out_within_a_second(shelf: Shelf) -> None:
    publish(shelf.owner.repo, Published("2.0.0"))
    shelf.step()
    before = shelf.message()
    shelf.owner.refresh()
    shelf.step()
    assert shelf.message().timestamp != before.timestamp
    shelf.owner.rotate("root")
    shelf.step()
    roots = shelf.message().roots
    assert roots is not None
    data = (shelf.owner.repo / "blobs" / roots.digest).read_bytes()
    assert [each["signed"]["version"] for each in json.loads(data)] == [2]


def test_files_are_not_copied_and_a_widened_share_sends_no_file_again(shelf: Shelf) -> None:
    publish(shelf.owner.repo, Published("2.0.0", share=0.1))
    shelf.step()
    for path in (shelf.owner.repo / "blobs").iterdir():
        assert path.stat().st_nlink == 2
    heard = shelf.hub.connect()
    heard.subscribe("fedfleet/v1/mill/chunk/+")
    heard.deliveries(0)
    publish(shelf.owner.repo, Published("2.0.0"))
    shelf.step()
    assert shelf.message().share == 1.0
    assert heard.deliveries(0) == []


def test_a_want_is_answered(shelf: Shelf) -> None:
    publish(shelf.owner.repo, Published("2.0.0"))
    shelf.step()
    topic = TOPICS.chunk(shelf.message().timestamp.digest[:32])
    data = shelf.hub.retained.pop(topic)
    shelf.serving.want((shelf.message().timestamp.digest[:32],))
    shelf.step()
    assert shelf.hub.retained[topic] == data


@pytest.mark.parametrize("harm", ["targets", "metadata"])
def test_a_repository_that_has_lost_something_holds_nothing_up(
    shelf: Shelf, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    publish(shelf.owner.repo, Published("2.0.0"))
    (shelf.owner.repo / harm).rename(shelf.owner.repo / "gone")
    (shelf.owner.repo / harm).mkdir()
    if harm == "metadata":
        (shelf.owner.repo / harm / "timestamp.json").write_text("{")
    assert shelf.step() == set()
    assert "releases: " in caplog.text


def test_only_what_is_signed_is_published(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has no signed version 3.0.0; known are 1.0.0, 2.0.0"):
        publish(shelf.owner.repo, Published("3.0.0"))
    with pytest.raises(StoreError, match="is this a repository of fedfleet release init"):
        publish(tmp_path / "nowhere", Published("1.0.0"))
