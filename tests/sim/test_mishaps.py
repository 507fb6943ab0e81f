"""What goes wrong on command: the grammar, who and when, and what becomes of processes; the report names it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import KINDS
from hypothesis import given
from hypothesis import strategies as st
from processes import alive, until
from rich.console import Console

from fedfleet.cloud.settings import Rounds
from fedfleet.sim.brokers import running
from fedfleet.sim.datasets import load
from fedfleet.sim.fleet import ProcessFleet, fill
from fedfleet.sim.mishaps import Mishap, Schedule, Turn, check, parse, striking
from fedfleet.sim.record import document, read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.split import split
from fedfleet.sim.stage import Simulation
from fedfleet.wire.errors import SettingsError

DEVICES = tuple(f"d{index}" for index in range(10))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("disconnect 30% for 20s", Mishap("disconnect", "30%", lasts=20.0)),
        ("slow 256kbit for 30s", Mishap("slow", amount=256_000.0, lasts=30.0)),
        ("slow 2mbit on 3 for 1.5m", Mishap("slow", "3", 2e6, 90.0)),
        ("loss 10% for 30s", Mishap("loss", amount=0.1, lasts=30.0)),
        ("loss 2.5% on 30%", Mishap("loss", "30%", 0.025)),
        ("kill 1", Mishap("kill", "1")),
        ("Kill  all for 5s at 7", Mishap("kill", "all", lasts=5.0, round=7)),
        ("memory 128m for 10s", Mishap("memory", amount=128 * 2**20, lasts=10.0)),
        ("memory 1g on 2 at 45s", Mishap("memory", "2", 2**30, round=0, after=45.0)),
    ],
)
def test_a_line_says_what_goes_wrong(text: str, wanted: Mishap) -> None:
    assert parse(text) == replace(wanted, text=" ".join(text.lower().split()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kill", "write such as 'disconnect 30% for 20s'"),
        ("explode 1", "is none; write such as"),
        ("disconnect 1 on 2", "is none; write such as"),
        ("disconnect 0 for 20s", "0 is nobody"),
        ("disconnect 101%", "101% is nobody"),
        ("slow 256kbit on d3", "d3 is nobody"),
        ("slow 30%", "slow takes a rate, such as slow 256kbit"),
        ("loss 10", "loss takes a share, such as loss 10%"),
        ("loss 100%", "100% is out of range"),
        ("memory 1m", "memory is 6m at least"),
        ("memory 128", "memory takes a size, such as memory 128m"),
        ("kill 1 for 20", "20 is no time; write 20s or 2m"),
        ("kill 1 for 0s", "0s is no time"),
        ("kill 1 at 0", "0 is no time"),
        ("kill 1 at soon", "soon is no time"),
    ],
)
def test_a_line_that_says_nothing_is_refused_with_what_would_have_been_right(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse(text)


@given(st.text(max_size=40))
def test_no_line_is_anything_but_a_mishap_or_a_mistake(text: str) -> None:
    try:
        assert parse(text).kind
    except SettingsError as error:
        assert "\n" not in str(error)


def test_the_seed_draws_who_is_meant() -> None:
    third = parse("disconnect 30% for 20s")
    drawn = {third.meant(DEVICES, seed) for seed in range(20)}
    assert all(len(who) == 3 and list(who) == sorted(who) for who in drawn)
    assert len(drawn) > 10
    assert third.meant(DEVICES, 1) == third.meant(DEVICES, 1)
    assert parse("kill 1%").meant(DEVICES, 0) != ()
    assert parse("kill all").meant(DEVICES, 0) == DEVICES
    assert parse("kill 99").meant(DEVICES, 0) == DEVICES


def test_mishaps_begin_with_their_round_or_second_and_end_once() -> None:
    first, later = parse("disconnect 1 for 20s at 3"), parse("kill 2 at 30s")
    schedule = Schedule([first, later], DEVICES, 0)
    who = first.meant(DEVICES, 0)
    assert schedule.due(1, 0.0) == schedule.due(2, 5.0) == []
    assert schedule.due(4, 9.0) == [Turn(first, who, True)], "though round 3 was never seen"
    assert schedule.due(5, 28.9) == []
    assert schedule.due(9, 31.0) == [Turn(first, who, False), Turn(later, later.meant(DEVICES, 0), True)]
    assert schedule.due(99, 999.0) == [], "what has no end never ends"


class Noted:
    """A fleet that notes what is done to it."""

    def __init__(self) -> None:
        self.done = list[tuple[str, str, tuple[str, ...]]]()

    def afflict(self, mishap: Mishap, devices: Sequence[str]) -> str:
        self.done.append(("afflict", mishap.kind, tuple(devices)))
        return "it hurts"

    def relieve(self, mishap: Mishap, devices: Sequence[str]) -> str:
        self.done.append(("relieve", mishap.kind, tuple(devices)))
        return "no more"


def test_seconds_count_from_the_first_round_and_all_that_is_done_is_told() -> None:
    now, told, fleet = [1000.0], list[tuple[int, float, str]](), Noted()
    strike = striking(
        [parse("kill all for 5s at 10s")], fleet, ("d0", "d1"), 0, lambda *words: told.append(words), lambda: now[0]
    )
    for round_, at in ((0, 1000.0), (1, 1100.0), (1, 1109.0), (2, 1110.0), (2, 1114.0), (3, 1116.0)):
        now[0] = at
        strike(round_)
    assert fleet.done == [("afflict", "kill", ("d0", "d1")), ("relieve", "kill", ("d0", "d1"))]
    assert told == [(2, 10.0, "kill all for 5s at 10s: it hurts"), (3, 16.0, "kill all for 5s at 10s, over: no more")]


@pytest.mark.parametrize(
    ("engine", "text", "said"),
    [
        ("mqtt", "slow 256kbit", "the engine mqtt cannot do 'slow 256kbit': its devices are processes"),
        ("mqtt", "memory 64m", "take --engine docker"),
        ("virtual", "kill 1", "the engine virtual has --faults"),
        ("loopback", "kill 1", "--fault is for fleets that really run"),
    ],
)
def test_an_engine_that_cannot_says_so_before_anything_starts(
    engine: str, text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=said):
        check(engine, [parse(text)])
    with pytest.raises(SettingsError, match=said):
        simulate(Simulation(engine=engine, mishaps=(text,)), tmp_path / "runs", Console(file=io.StringIO()))
    assert not (tmp_path / "runs").exists()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("kind", KINDS[:1])
def test_processes_stand_still_and_go_on_die_and_start_again(kind: str, tmp_path: Path) -> None:
    fill(tmp_path / "devices", split("iid", load("digits", 0), 2, 0))
    cut, kill = parse("disconnect 1"), parse("kill 1")
    with running(kind, tmp_path) as (broker, _):
        fleet = ProcessFleet(tmp_path / "devices", 2, "hurt", broker)
        try:
            first = fleet.pids()["d0"]
            assert fleet.afflict(cut, ["d0"]).startswith("d0: stand still, since a process has no network")
            assert until(lambda: stopped(first)) and not stopped(fleet.pids()["d1"])
            assert fleet.relieve(cut, ["d0"]) == "d0: go on"
            assert until(lambda: not stopped(first))
            assert fleet.afflict(kill, ["d0"]) == "d0: killed"
            assert until(lambda: fleet.gone() == ["d0"])
            assert fleet.relieve(kill, ["d0"]) == "d0: started again"
            assert fleet.gone() == [] and fleet.pids()["d0"] != first
            fleet.afflict(cut, ["d1"])
            pids = list(fleet.pids().values())
        finally:
            fleet.close()
    assert not any(alive(pid) for pid in pids), "one that stands still as well"


@pytest.mark.parametrize("kind", KINDS[:1])
def test_a_killed_device_comes_back_and_counts_and_the_report_names_what_was_done(kind: str, tmp_path: Path) -> None:
    wanted = Simulation(
        devices=2,
        broker=kind,
        rounds=Rounds(total=60, deadline=60.0),
        mishaps=("kill 1 for 1s at 2",),
        baselines=False,
    )
    folder = simulate(wanted, tmp_path, Console(file=io.StringIO()))
    found = read(folder)
    begun, over = found.happened
    assert (begun.round, over.round > 2) == (2, True)
    assert begun.text in ("kill 1 for 1s at 2: d0: killed", "kill 1 for 1s at 2: d1: killed")
    assert over.seconds - begun.seconds >= 1
    assert any(record.reported == 1 for record in found.rounds), "the rounds went on without it"
    assert found.rounds[-1].reported == 2, "it counts again"
    page = (folder / "report.html").read_text()
    assert "What went wrong on command" in page and begun.text in page
    assert [line["round"] for line in document(folder)["mishaps"]] == [begun.round, over.round]


@pytest.mark.parametrize("kind", KINDS[:1])
def test_a_fleet_that_is_all_dead_is_waited_for_where_it_comes_back(kind: str, tmp_path: Path) -> None:
    wanted = Simulation(
        devices=2,
        broker=kind,
        rounds=Rounds(total=5, deadline=60.0),
        mishaps=("kill all for 1s at 2",),
        baselines=False,
    )
    found = read(simulate(wanted, tmp_path, Console(file=io.StringIO())))
    assert found.finished and found.rounds[-1].reported == 2
    assert [what.text for what in found.happened] == [
        "kill all for 1s at 2: d0, d1: killed",
        "kill all for 1s at 2, over: d0, d1: started again",
    ]


@pytest.mark.parametrize("kind", KINDS[:1])
def test_a_fleet_that_is_killed_for_good_ends_the_run(kind: str, tmp_path: Path) -> None:
    wanted = Simulation(
        devices=2, broker=kind, rounds=Rounds(total=500, deadline=60.0), mishaps=("kill all at 2",), baselines=False
    )
    with pytest.raises(SettingsError, match="all agents ended"):
        simulate(wanted, tmp_path, Console(file=io.StringIO()))
