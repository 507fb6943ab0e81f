"""Topics: one place for their shape, and no name that a broker could read as something else."""

from __future__ import annotations

import pytest

from fedfleet.wire.bus import matches
from fedfleet.wire.errors import FrameError, SettingsError
from fedfleet.wire.topics import Topics, name

TOPICS = Topics("plant-7")


def test_they_are_what_the_document_says() -> None:
    assert TOPICS.task == "fedfleet/v1/plant-7/task"
    assert TOPICS.manifest("ab") == "fedfleet/v1/plant-7/blob/ab"
    assert TOPICS.chunk("ab") == "fedfleet/v1/plant-7/chunk/ab"
    assert TOPICS.want("d1") == "fedfleet/v1/plant-7/device/d1/want"
    assert TOPICS.status("d1") == "fedfleet/v1/plant-7/device/d1/status"
    assert TOPICS.update("d1") == "fedfleet/v1/plant-7/device/d1/update"
    assert TOPICS.receipt("d1") == "fedfleet/v1/plant-7/device/d1/receipt"


def test_patterns_match_their_topics_only() -> None:
    assert matches(TOPICS.status(), TOPICS.status("d1"))
    assert not matches(TOPICS.status(), TOPICS.update("d1"))
    assert not matches(TOPICS.status(), Topics("other").status("d1"))
    assert not matches(TOPICS.chunk("ab"), TOPICS.manifest("ab"))
    assert not matches(TOPICS.task, TOPICS.task + "/x")


@pytest.mark.parametrize("bad", ["", "A", "a/b", "a+b", "#", "a" * 37, "ä", "a b", "a\n", "$sys"])
def test_odd_names_are_refused(bad: str) -> None:
    with pytest.raises(SettingsError, match="1 to 36 characters"):
        name(bad, "device id")
    with pytest.raises(SettingsError, match="fleet name"):
        Topics(bad)


def test_the_device_is_read_from_the_topic() -> None:
    assert TOPICS.device(TOPICS.update("d1")) == "d1"
    for topic in ("fedfleet/v1/other/device/d1/update", "fedfleet/v1/plant-7/device/D1/update", "x", TOPICS.task):
        with pytest.raises(FrameError, match="names no device"):
            TOPICS.device(topic)


def test_content_is_read_from_the_topic() -> None:
    digest, chunk = "0f" * 32, "ab" * 16
    assert TOPICS.named(TOPICS.manifest(digest)) == ("blob", digest)
    assert TOPICS.named(TOPICS.chunk(chunk)) == ("chunk", chunk)
    for topic in (
        TOPICS.chunk(digest),
        TOPICS.manifest(chunk),
        TOPICS.chunk("AB" * 16),
        TOPICS.chunk(chunk) + "/1",
        Topics("other").chunk(chunk),
        TOPICS.task,
    ):
        with pytest.raises(FrameError, match="names no blob and no chunk"):
            TOPICS.named(topic)
