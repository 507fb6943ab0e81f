"""Topics: one place for their shape, and no name that a broker could read as something else."""

from __future__ import annotations

import pytest

from fedfleet.wire.bus import matches
from fedfleet.wire.errors import FrameError, SettingsError
from fedfleet.wire.topics import Topics, name

TOPICS = Topics("plant-7")


def test_they_are_what_the_document_says() -> None:
    assert TOPICS.task == "fedfleet/v1/plant-7/task"
    assert TOPICS.chunk("ab", 3) == "fedfleet/v1/plant-7/blob/ab/3"
    assert TOPICS.status("d1") == "fedfleet/v1/plant-7/device/d1/status"
    assert TOPICS.update("d1") == "fedfleet/v1/plant-7/device/d1/update"
    assert TOPICS.receipt("d1") == "fedfleet/v1/plant-7/device/d1/receipt"


def test_patterns_match_their_topics_only() -> None:
    assert matches(TOPICS.status(), TOPICS.status("d1"))
    assert not matches(TOPICS.status(), TOPICS.update("d1"))
    assert not matches(TOPICS.status(), Topics("other").status("d1"))
    assert matches(TOPICS.chunk("ab"), TOPICS.chunk("ab", 0))
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


def test_chunks_are_read_from_the_topic() -> None:
    digest = "0f" * 32
    assert TOPICS.part(TOPICS.chunk(digest, 12)) == (digest, 12)
    for topic in (TOPICS.chunk(digest, "012"), TOPICS.chunk(digest, -1), TOPICS.chunk("zz", 1), TOPICS.task):
        with pytest.raises(FrameError):
            TOPICS.part(topic)
