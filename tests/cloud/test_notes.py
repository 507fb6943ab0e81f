"""What is noted of a fleet beside the journal, and what others read of it while the aggregator runs or does not."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from federations import TOPICS, Unwilling, World, world

from fedfleet.cloud import notes
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.fleet import device, devices, fleet
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.notes import BATCH, Notes, Standing, finite, standing
from fedfleet.cloud.presence import Presence
from fedfleet.cloud.settings import Rounds
from fedfleet.wire.calling import Ability, Needs
from fedfleet.wire.chunks import split
from fedfleet.wire.errors import DataError, SettingsError
from fedfleet.wire.messages import Blob, Plan, Status, Task, Update, encode
from fedfleet.wire.record import build

WHAT = Standing("mill", "fedavg", 3)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Notes]]:
    """Starts an aggregator's notes anew, on the folder that the journal holds."""
    journal = Journal(tmp_path)
    made: list[Notes] = []

    def start() -> Notes:
        made.append(Notes(tmp_path))
        return made[-1]

    yield start
    for found in made:
        found.close()
    journal.close()


def said(**statuses: Status) -> Presence:
    presence = Presence()
    for name, status in statuses.items():
        presence.see(name, status)
    return presence


def backdated(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as database:
        database.execute("UPDATE devices SET seen = '2020-01-01T00:00:00Z'")
        database.commit()


def recent(folder: Path) -> set[str]:
    return {each.device for each in devices(folder) if each.seen > "2021"}


def test_devices_stand_there_as_they_last_said(tmp_path: Path, opened: Callable[[], Notes]) -> None:
    presence = said(a=Status("ready", 3), b=Status("paused", 1, reason="82 degrees"), c=Status("lost", 2))
    presence.see("a", Status("ready", 3, declined=4, reason="no examples"))
    found = opened()
    found.devices(presence, WHAT)
    assert presence.changed == set()
    assert [(each.device, each.state, each.reason) for each in devices(tmp_path)] == [
        ("a", "ready", "declined round 4: no examples"),
        ("b", "paused", "82 degrees"),
        ("c", "lost", ""),
    ]
    status = Status("ready", 3, declined=4, reason="no examples")
    assert build(Status, devices(tmp_path)[0].status, strict=True) == status
    presence.see("b", None)
    presence.see("c", Status("ready", 3))
    found.devices(presence, WHAT)
    assert [(each.device, each.state) for each in devices(tmp_path)] == [("a", "ready"), ("c", "ready")]
    assert fleet(tmp_path).states == {"ready": 2}


def test_who_was_not_heard_of_since_the_start_is_unknown(tmp_path: Path, opened: Callable[[], Notes]) -> None:
    opened().devices(said(a=Status("ready", 1), b=Status("ready", 1), c=Status("ready", 1)), WHAT)
    backdated(tmp_path)
    again = opened()
    assert fleet(tmp_path).states == {"unknown": 3}
    presence = said(a=Status("ready", 1), b=Status("ready", 2))  # what the broker retains of a, a new start of b
    again.devices(presence, WHAT)
    assert [each.state for each in devices(tmp_path)] == ["ready", "ready", "unknown"]
    assert "not heard of since" in devices(tmp_path)[2].reason
    assert recent(tmp_path) == {"b"}
    presence.heard("a")  # part of an update
    presence.heard("c")
    again.devices(presence, WHAT)
    assert recent(tmp_path) == {"a", "b"}


def test_a_large_fleet_is_noted_piece_by_piece(tmp_path: Path, opened: Callable[[], Notes]) -> None:
    presence, found = said(**{f"d{n}": Status("ready", 1) for n in range(2 * BATCH + 1)}), opened()
    for left in (BATCH + 1, 1, 0):
        found.devices(presence, WHAT)
        assert len(presence.changed) == left
    assert fleet(tmp_path).states == {"ready": 2 * BATCH + 1}


def test_nothing_is_written_where_nothing_is_new(tmp_path: Path, opened: Callable[[], Notes]) -> None:
    presence, found = said(a=Status("ready", 1)), opened()
    found.devices(presence, WHAT)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        before = database.execute("PRAGMA data_version").fetchone()
        found.devices(presence, WHAT)
        assert database.execute("PRAGMA data_version").fetchone() == before
        found.devices(presence, Standing("mill", "fedavg", 3, waiting="1 of 2 devices are there"))
        assert database.execute("PRAGMA data_version").fetchone() != before


def test_a_note_that_cannot_be_written_is_kept_for_later(
    tmp_path: Path, opened: Callable[[], Notes], caplog: pytest.LogCaptureFixture
) -> None:
    presence, found = said(a=Status("ready", 1)), opened()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            found.devices(presence, WHAT)
        other.execute("ROLLBACK")
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == [
        "database is locked; fedfleet fleet shows what was noted before"
    ]
    assert devices(tmp_path) == []
    found.devices(presence, WHAT)
    assert [each.device for each in devices(tmp_path)] == ["a"]


def test_who_lacks_what_the_task_needs_is_not_called(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    task = Task(1, Blob.of(b"program"), Blob.of(b"1"), Plan(), needs=Needs(("camera",)))
    journal.open_round(task)
    found = Notes(tmp_path)
    found.devices(said(a=Status("ready", 1), b=Status("ready", 1, ability=Ability(("camera",)))), WHAT)
    found.close()
    assert [(each.device, each.part) for each in devices(tmp_path)] == [("a", "not called"), ("b", "called")]
    journal._run("UPDATE devices SET status = json_remove(status, '$.ability')")  # as an older aggregator noted it
    assert [each.part for each in devices(tmp_path)] == ["not called"] * 2
    journal.close()


def test_a_device_has_its_history(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(1, 5):
        journal.open_round(Task(number, Blob.of(b"program"), Blob.of(b"%d" % number), Plan(), share=1.0))
        metrics = {"loss": 1 / number, "rss_mib": 50.0 + number}
        journal.count(*(Update(number, name, 10 * number, "int8", b"delta", metrics) for name in ("a", "b")))
        if number in (1, 2):
            journal.close_round(number, b"model %d" % number, b"moments")
        elif number == 3:
            journal.abandon_round(number)
    found = Notes(tmp_path)
    presence = said(a=Status("ready", 1), b=Status("ready", 1, 1, "was full"), c=Status("ready", 1, 4, "no examples"))
    presence.see("d", Status("ready", 1))
    found.devices(presence, WHAT)
    found.close()
    assert fleet(tmp_path).since > "2020"
    assert [(each.device, each.part, each.reason) for each in devices(tmp_path)] == [
        ("a", "counted", ""),
        ("b", "counted", ""),  # it has contributed since
        ("c", "declined", "declined round 4: no examples"),
        ("d", "called", ""),
    ]
    a, history = device(tmp_path, "a")
    assert a == devices(tmp_path)[0]
    assert (a.contributed, a.last_round, a.examples, a.loss, a.rss_mib) == (2, 2, 20, 0.5, 52.0)
    assert [(each.round, each.state, each.examples, each.codec) for each in history] == [
        (1, "closed", 10, "int8"),
        (2, "closed", 20, "int8"),
        (3, "abandoned", 30, "int8"),
        (4, "open", 40, "int8"),
    ]
    assert device(tmp_path, "d")[1] == []
    with pytest.raises(SettingsError, match="no device 'e'; known are a, b, c, d$"):
        device(tmp_path, "e")
    journal.close()


def test_an_error_names_some_of_many_devices(tmp_path: Path, opened: Callable[[], Notes]) -> None:
    with pytest.raises(SettingsError, match="no device 'x'; known are none yet$"):
        device(tmp_path, "x")
    opened().devices(said(**{f"d{n:02}": Status("ready", 1) for n in range(20)}), WHAT)
    with pytest.raises(SettingsError, match="known are d00, d01, .*, d11 and 8 more$"):
        device(tmp_path, "x")


@contextmanager
def watched(**options: object) -> Iterator[tuple[World, Callable[[], None]]]:
    """A world, and what notes it."""
    with world(**options) as found:
        written = Notes(found.folder / "cloud")

        def note() -> None:
            written.devices(found.cloud.presence, standing(found.cloud, WHAT))
            for record in found.records:
                written.round(record)

        yield found, note
        written.close()


def test_the_reason_why_a_round_waits_is_seen_at_every_point() -> None:
    trainers = {"d1": Unwilling(DataError("no examples yet; run import"))}
    with watched(trainers=trainers) as (found, note):
        folder = found.folder / "cloud"
        assert (fleet(folder).state, fleet(folder).why) == ("running", "the aggregator is starting")
        note()
        assert fleet(folder).why == "0 of 3 devices are there"
        while not found.cloud.declined():
            found.act(0)
            found.act(2)
        note()
        now = fleet(folder)
        assert (now.now.round, now.now.called, now.now.reported, now.now.declined) == (1, 3, 0, 1)
        assert now.now.reasons == ("d1: no examples yet; run import",)
        assert now.why == ("0 reported, quorum 1; waiting for d0, d2; 1 declined, d1: no examples yet; run import")
        found.device_dies("d2")
        found.play()
        note()
        done = fleet(folder)
        assert (done.state, done.why) == ("done", "all 3 rounds are closed")
        assert done.states == {"lost": 1, "ready": 2}
        assert done.closed == 3
        assert [(each.round, each.state, each.called, each.reported) for each in done.rounds] == [
            (record.round, record.state, record.called, record.reported) for record in found.records
        ]
        found.cloud_dies()
        assert fleet(folder) == done


def test_an_aggregator_that_was_stopped_is_seen_as_such() -> None:
    with watched() as (found, note):
        found.until(2)
        note()
        found.cloud_dies()
        stopped = fleet(found.folder / "cloud")
        assert stopped.state == "stopped"
        assert "start it with fedfleet aggregate" in stopped.why
        assert stopped.now.round == 2


def test_an_abandoned_round_says_why() -> None:
    rounds = Rounds(total=1, devices=1, quorum=3, deadline=50.0)
    with watched(devices=1, rounds=rounds) as (found, note):
        while not found.records:
            found.act(0)
            found.act(1)
        note()
        (ended,) = fleet(found.folder / "cloud").rounds[:1]
        assert (ended.state, ended.called, ended.reported) == ("abandoned", 1, 1)
        assert ended.reason == "deadline of 50 s with 1 reported, quorum 3"
        assert ended.seconds >= 50


def test_a_link_that_is_down_comes_before_all_else(tmp_path: Path, opened: Callable[[], Notes]) -> None:
    opened().devices(Presence(), Standing("mill", "fedavg", 3, waiting="0 of 2 devices", link="no answer"))
    assert fleet(tmp_path).why == "the broker is out of reach: no answer"


def test_notes_change_nothing_of_what_resumes() -> None:
    """The same federation with and without, the aggregator killed in its second round."""
    digests = []
    for noting in (True, False):
        with world() as found:
            for _ in range(2):
                written = Notes(found.folder / "cloud") if noting else None
                for _ in range(9):
                    for actor in range(4):
                        found.act(actor)
                    if written:
                        written.devices(found.cloud.presence, standing(found.cloud, WHAT))
                if written:
                    written.close()
                found.cloud_dies()
                found.cloud_starts()
            digests.append(found.play())
    assert digests[0] == digests[1]


def test_an_update_is_a_sign_of_life_and_a_refused_one_is_counted() -> None:
    with world() as found:
        found.until(1)
        found.cloud.presence.changed.clear()
        offered = split(Update(1, "d1", 1, "float32", b"1234"))[0]  # too short for the model
        found.hub.publish(TOPICS.update("d1"), offered, retain=False)
        found.act(0)
        assert found.cloud.presence.changed == {"d1"}
        found.until(2)
        assert found.records[0].refused == 1


def test_a_status_from_the_broker_is_all_that_is_needed(tmp_path: Path) -> None:
    with world(devices=1, rounds=Rounds(total=1, devices=2)) as found:
        found.hub.connect().publish(TOPICS.status("x"), encode(Status("asleep", 1, reason="until 22:00")), retain=True)
        found.act(0)
        found.act(1)
        found.act(0)
        assert found.cloud.presence.changed == {"x", "d0"}
        seen = standing(found.cloud, WHAT)
        assert (seen.known, seen.present, seen.waiting) == (2, 1, "1 of 2 devices are there")


def test_numbers_that_json_does_not_have_are_none(tmp_path: Path, opened: Callable[[], Notes]) -> None:
    assert finite({"a": math.nan, "b": {"c": -math.inf, "d": 1.0}, "e": "x"}) == {
        "a": None,
        "b": {"c": None, "d": 1.0},
        "e": "x",
    }
    opened().round(RoundRecord(1, "closed", "", 1, 1, 0, 1, math.nan, 0, 0, 1.0, "", 0.0))
    assert notes.PATIENCE <= 1
