"""Rollouts of signed releases: a real repository and aggregator, and fifty devices that do as agents do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run
from federations import PROGRAM, TOPICS, weights
from ota.owners import Owner
from rollouts import NEW, OLD, Board, bundle, fleet

from fedfleet.cloud import notes
from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.releases.published import Published, listed, publish, published
from fedfleet.cloud.releases.serving import Serving
from fedfleet.cloud.rollout import course, releasing
from fedfleet.cloud.rollout.course import Group, Handed
from fedfleet.cloud.rollout.releasing import EVERY, Rolling
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.wire import release
from fedfleet.wire.calling import Ability
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.loopback import Hub
from fedfleet.wire.messages import Plan, Status, decode, encode

FIVE = [Group((f"g{number}",)) for number in range(1, 6)]


class Cloud:
    """A repository with two releases, of which the old one is handed out, and an aggregator that may be killed."""

    def __init__(self, folder: Path, boards: list[Board]) -> None:
        self.folder, self.boards, self.hub, self.now = folder, boards, Hub(), 0.0
        self.owner = Owner(folder)
        self.repo, self.state = self.owner.repo, folder / "state"
        for version in (OLD, NEW):
            self.owner.release(bundle(folder / version, version))
        publish(self.repo, Published(OLD))
        self.devices = {board.name: self.hub.connect() for board in boards}
        self.exposed = set[str]()
        self.starts()

    def starts(self) -> None:
        self.journal, self.bus = Journal(self.state), self.hub.connect()
        federation = Federation(PROGRAM, weights(), strategy("fedavg"), Plan(), Rounds(devices=1000))
        serving = Serving(self.repo, self.bus, TOPICS, lambda: self.now)
        self.aggregator = Aggregator(federation, TOPICS, self.bus, self.journal, lambda: self.now, releases=serving)
        self.notes = notes.Notes(self.state)
        self.rolling = Rolling(self.repo, self.state, lambda: self.now)

    def dies(self) -> None:
        self.notes.close()
        self.bus.close()
        self.journal.close()

    def step(self) -> None:
        """The aggregator, what runs beside it, and each device once."""
        self.now += EVERY
        for _ in range(3):
            self.aggregator.step(0)
        self.notes.devices(self.aggregator.presence, notes.Standing("test"))
        self.rolling.step()
        payload = self.hub.retained.get(TOPICS.release)
        handed = decode(release.Release, payload) if payload else None
        serials = {each.version: each.serial for each in listed(self.repo)}
        for board in self.boards:
            board.serials = serials
            board.step(Handed(handed.version, handed.groups, handed.share) if handed else None)
            self.says(board)
            if board.version == NEW:
                self.exposed.add(board.name)

    def says(self, board: Board) -> None:
        text = release.said(board.of, board.word, board.why) if board.word else ""
        status = Status("ready", 1, ability=Ability(board.tags), version=board.version, release=text)
        self.devices[board.name].publish(TOPICS.status(board.name), encode(status), retain=True)

    def steps(self, count: int = 60) -> course.Rollout:
        for _ in range(count):
            self.step()
        return releasing.kept(self.repo).there()

    def running(self, version: str) -> set[str]:
        return {board.tags[0] for board in self.boards if board.version == version}


@pytest.fixture
def good(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path, fleet())
    yield cloud
    cloud.dies()


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path, fleet(bad_share=0.2))
    yield cloud
    cloud.dies()


def test_a_good_release_reaches_all_fifty(good: Cloud) -> None:
    releasing.start(good.repo, NEW, FIVE)
    found = good.steps()
    assert (found.state, found.opened, found.settled) == ("done", 5, True)
    assert good.running(OLD) == set()


def test_a_build_that_fails_on_a_fifth_exposes_one_group_and_is_taken_back_by_itself(bad: Cloud) -> None:
    releasing.start(bad.repo, NEW, FIVE, keys=str(bad.owner.keys))
    found = bad.steps()
    assert (found.state, found.opened) == ("aborted", 1)
    assert "2 of 10 devices failed in group g1" in found.reason
    assert bad.exposed == {board.name for board in bad.boards if board.tags == ("g1",)}
    assert bad.running(NEW) == set()
    assert published(bad.repo) == Published(OLD, ("g1",))


def test_without_keys_the_healthy_ones_come_back_once_the_owner_has_signed_that(bad: Cloud) -> None:
    releasing.start(bad.repo, NEW, FIVE)
    found = bad.steps()
    assert found.state == "aborted"
    assert not releasing.returns(bad.repo, found)
    assert len([board for board in bad.boards if board.version == NEW]) == 8
    bad.owner.release(bad.folder / OLD)
    bad.steps(10)
    assert releasing.returns(bad.repo, found)
    assert bad.running(NEW) == set()


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_server_that_is_killed_at_every_step_comes_to_the_same(share: float, tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, fleet(bad_share=share))
    releasing.start(cloud.repo, NEW, FIVE, keys=str(cloud.owner.keys))
    for _ in range(60):
        cloud.step()
        cloud.dies()
        cloud.starts()
    found = releasing.kept(cloud.repo).there()
    cloud.dies()
    assert (found.state, found.settled) == (("aborted", True) if share else ("done", True))
    assert cloud.running(NEW) == (set() if share else {f"g{number}" for number in range(1, 6)})


def test_what_was_decided_and_not_handed_out_is_handed_out_at_the_next_look(good: Cloud) -> None:
    releasing.start(good.repo, NEW, FIVE)
    releasing.kept(good.repo).change(lambda found: course.stopped(found, "killed behind this"))  # type: ignore[arg-type]
    assert published(good.repo) == Published(NEW, ("g1",))
    found = releasing.look(good.repo, good.state)
    assert published(good.repo) == Published(OLD, ("g1",))
    assert found is not None and found.settled


def test_when_it_is_over_the_owner_may_hand_out_what_he_likes(good: Cloud) -> None:
    releasing.start(good.repo, NEW, FIVE)
    good.steps()
    publish(good.repo, Published(OLD))
    good.steps(5)
    assert published(good.repo) == Published(OLD)


def test_what_makes_no_sense_is_refused(good: Cloud) -> None:
    for version, before, words in (
        ("9.9", "", "no signed version 9.9"),
        (NEW, "9.9", "no signed version 9.9"),
        (OLD, "", "is what would be gone back to"),
    ):
        with pytest.raises(SettingsError, match=words):
            releasing.start(good.repo, version, FIVE, before)
    with pytest.raises(SettingsError, match="no rollout was ever started"):
        releasing.order(good.repo, course.paused)
    releasing.start(good.repo, NEW, FIVE)
    with pytest.raises(SettingsError, match="abort it first"):
        releasing.start(good.repo, NEW, FIVE)
    (good.repo / "published.json").unlink()
    releasing.order(good.repo, lambda found: course.stopped(found, "no"))


def settings(cloud: Cloud) -> str:
    path = cloud.folder / "fleet.toml"
    path.write_text('fleet = "test"\nmodel = "model"\nstate = "state"\n[releases]\nrepository = "repo"\n')
    return str(path)


def test_the_operator_pauses_resumes_approves_and_aborts(good: Cloud) -> None:
    file = settings(good)
    groups = [word for number in range(1, 6) for word in ("--group", f"g{number}")]
    said = run("rollout", "start", file, NEW, *groups, "--approve", "g3")
    assert said.startswith(f"rollout of {NEW} over {OLD}: running, 1 of 5 groups opened")
    run("rollout", "pause", file)
    good.steps(20)
    assert good.running(NEW) == {"g1"}
    run("rollout", "resume", file)
    good.steps(20)
    assert good.running(NEW) == {"g1", "g2"}
    whole = json.loads(run("rollout", "status", file, "--json"))
    assert whole["model"] is None
    assert (whole["rollout"]["state"], whole["rollout"]["opened"]) == ("waiting", 2)
    assert [group["well"] for group in whole["rollout"]["groups"]] == [10, 10, 0, 0, 0]
    assert "waits" in run("rollout", "status", file)
    run("rollout", "approve", file)
    good.steps(8)
    assert "g3" in good.running(NEW)
    said = run("rollout", "abort", file, "--reason", "line 2 stands still")
    assert "aborted" in said and "line 2 stands still" in said
    assert "fedfleet release add" in said


def test_mistakes_at_the_command_line_are_one_line(good: Cloud, tmp_path: Path) -> None:
    file = settings(good)
    assert run("rollout", "status", file).strip() == "nothing is on its way"
    for words, said in (
        (("start", file, NEW), "name groups with --group, or shares"),
        (("start", file, NEW, "--group", "a", "--share", "0.5"), "name groups with --group, or shares"),
        (("start", file, NEW, "--group", "Not One"), "each of tags must be"),
        (("start", file, NEW, "--group", "a", "--approve", "b"), "--approve b is none of the groups"),
        (("start", file, NEW, "--share", "0.5", "--share", "0.1"), "shares must grow"),
        (("pause", file), "no rollout was ever started"),
        (("abort", file, "--model"), "no model is on its way"),
    ):
        assert said in run("rollout", *words)
    plain = tmp_path / "plain.toml"
    plain.write_text('fleet = "test"\nmodel = "model"\n')
    assert "[releases] repository is not set" in run("rollout", "pause", str(plain))
