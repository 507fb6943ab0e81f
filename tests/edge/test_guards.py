"""The guards: what holds training up, when it goes on again, and the one line that says why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sysfs

from fedfleet.edge.guards import CALM, PERIOD, Guards, Watch
from fedfleet.edge.settings import load_agent
from fedfleet.edge.trainer import Hold
from fedfleet.wire.errors import SettingsError

GO = Hold()


class Board:
    """A board in a folder, with clocks that are set by hand; `look` is what its guards say 5 s later."""

    def __init__(self, root: Path, **guards: Any) -> None:
        self.root = root
        self.now = 100.0
        self.time = (2026, 11, 22, 23, 30)
        self.taken = 0.0
        self.watch = Watch(
            Guards(**guards),
            root,
            lambda: self.taken,
            root=root,
            clock=lambda: self.now,
            wall=lambda: time.struct_time((*self.time, 0, 6, 326, 0)),
        )

    def look(self, seconds: float = PERIOD) -> Hold:
        self.now += seconds
        return self.watch()


@pytest.fixture
def board(tmp_path: Path) -> Callable[..., Board]:
    def make(**guards: Any) -> Board:
        return Board(tmp_path, **guards)

    return make


ALL: dict[str, Any] = {
    "max_temperature": 80.0,
    "max_load": 2.0,
    "min_memory_mib": 50.0,
    "min_disk_mib": 1.0,
    "mains_only": True,
    "min_battery": 30.0,
    "metered": ("*",),
}


def test_what_a_board_does_not_have_never_blocks(board: Callable[..., Board]) -> None:
    assert board(**ALL).look() == GO


def test_without_settings_a_board_that_is_hot_busy_and_on_battery_trains(board: Callable[..., Board]) -> None:
    it = board()
    sysfs.heat(it.root, 99.0)
    sysfs.load(it.root, 9.0)
    sysfs.memory(it.root, 1.0)
    sysfs.supply(it.root, "BAT0", type="Battery", status="Discharging", capacity=2)
    sysfs.route(it.root, ("wwan0", 1))
    assert it.look() == GO


def levels() -> Iterator[Any]:
    yield pytest.param(
        {"max_temperature": 80.0}, sysfs.heat, [79.9, 80.1, 75.1, 75.0, 79.9],
        "temperature of 80.1 C is over 80", "temperature of 75.1 C: work goes on at 75", id="temperature",
    )  # fmt: skip
    yield pytest.param(
        {"max_load": 2.0}, sysfs.load, [2.0, 2.04, 1.84, 1.8, 2.0],
        "load of 2.0 is over 2", "load of 1.8: work goes on at 1.8", id="load",
    )  # fmt: skip
    yield pytest.param(
        {"min_memory_mib": 50}, sysfs.memory, [50.0, 49.5, 54.5, 55.5, 50.5],
        "memory of 49.5 MiB is under 50", "memory of 54.5 MiB: work goes on at 55", id="memory",
    )  # fmt: skip
    yield pytest.param(
        {"min_battery": 30}, lambda root, value: sysfs.supply(root, "BAT0", type="Battery", status="Discharging", capacity=value),
        [30, 29, 34, 35, 31], "battery of 29.0 % is under 30", "battery of 34.0 %: work goes on at 35", id="battery",
    )  # fmt: skip


@pytest.mark.parametrize(("guards", "put", "values", "why", "waits"), list(levels()))
def test_a_measure_stops_work_and_lets_it_go_on_a_little_further_back(
    board: Callable[..., Board], guards: dict[str, Any], put: Any, values: list[float], why: str, waits: str
) -> None:
    it = board(**guards)
    found = []
    for value in values:
        put(it.root, value)
        found.append(it.look())
    assert [hold.state for hold in found] == ["", "paused", "paused", "", ""]
    assert [hold.reason for hold in found] == ["", why, waits, "", ""]
    assert {hold.memory for hold in found} == {False, "min_memory_mib" in guards}


def test_a_disk_that_is_nearly_full(board: Callable[..., Board]) -> None:
    assert board(min_disk_mib=1).look() == GO
    hold = board(min_disk_mib=2**40).look()
    assert (hold.state, hold.memory) == ("paused", False)
    assert hold.reason.startswith("free disk of ") and hold.reason.endswith(" MiB is under 1.09951e+12")


def test_the_board_is_looked_at_every_five_seconds(board: Callable[..., Board]) -> None:
    it = board(max_temperature=80.0)
    sysfs.heat(it.root, 50.0)
    assert it.look() == GO
    sysfs.heat(it.root, 90.0)
    assert it.look(PERIOD - 0.1) == GO
    assert it.look(0.2).state == "paused"


def test_memory_that_training_itself_takes_is_not_room_for_it(board: Callable[..., Board]) -> None:
    it = board(min_memory_mib=50)
    sysfs.memory(it.root, 120.0)
    assert it.look() == GO
    sysfs.memory(it.root, 60.0)  # training has begun
    it.taken = 60.0
    assert it.look() == GO
    sysfs.memory(it.root, 45.0)
    assert it.look() == Hold("paused", "memory of 45.0 MiB is under 50", memory=True)
    sysfs.memory(it.root, 105.0)  # it was ended for that
    it.taken = 0.0
    assert it.look() == Hold("paused", "memory of 45.0 MiB is under 50", memory=True)
    sysfs.memory(it.root, 114.0)
    assert it.look() == Hold("paused", "memory of 54.0 MiB: work goes on at 55", memory=True)
    sysfs.memory(it.root, 116.0)
    assert it.look() == GO
    sysfs.memory(it.root, 100.0)  # and begins again only where both fit
    assert it.look().memory


def test_a_throttle_flag_counts_for_a_minute(board: Callable[..., Board]) -> None:
    it = board()
    sysfs.flags(it.root, 0x50005)
    assert it.look().reason == "the voltage is too low, the clock is throttled"
    sysfs.flags(it.root, 0x50000)
    assert it.look() == Hold("paused", "the board was throttled less than a minute ago")
    assert it.look(CALM - 2 * PERIOD).state == "paused"
    assert it.look() == GO
    assert board(throttled=False).look() == GO
    sysfs.flags(it.root, 0x50005)
    assert board(throttled=False).look() == GO


def test_the_mains_alone(board: Callable[..., Board]) -> None:
    it = board(mains_only=True)
    sysfs.supply(it.root, "BAT0", type="Battery", status="Discharging", capacity=99)
    assert it.look() == Hold("paused", "the board runs on its battery")
    sysfs.supply(it.root, "BAT0", status="Charging")
    assert it.look() == GO


def test_a_metered_link(board: Callable[..., Board]) -> None:
    it = board(metered=("wwan*", "ppp*"))
    sysfs.route(it.root, ("ppp0", 100))
    assert it.look() == Hold("paused", "the link by ppp0 is metered")
    sysfs.route(it.root, ("ppp0", 100), ("wlan0", 50))
    assert it.look() == GO


def test_a_file_holds_work_up_as_long_as_it_is_there(board: Callable[..., Board], tmp_path: Path) -> None:
    it = board()
    (tmp_path / "inhibit").touch()
    assert it.look() == Hold("paused", f"{tmp_path}/inhibit is there")
    assert board(inhibit="").look() == GO
    assert board(inhibit="backup.lock").look() == GO
    assert board(inhibit=str(tmp_path / "inhibit")).look().state == "paused"
    (tmp_path / "inhibit").unlink()
    assert it.look() == GO


@pytest.mark.parametrize(
    ("hours", "awake"),
    [
        ("22:00-06:00", {(21, 59): False, (22, 0): True, (23, 59): True, (0, 0): True, (5, 59): True, (6, 0): False}),
        ("08:30-17:00", {(8, 29): False, (8, 30): True, (16, 59): True, (17, 0): False, (0, 0): False}),
        ("00:00-23:59", {(0, 0): True, (23, 58): True, (23, 59): False}),
    ],
)
def test_hours(board: Callable[..., Board], hours: str, awake: dict[tuple[int, int], bool]) -> None:
    it = board(hours=hours)
    for clock, trains in awake.items():
        it.time = (2026, 11, 22, *clock)
        hold = it.look()
        assert (hold.state == "") is trains
        assert trains or hold == Hold("asleep", f"it is {clock[0]:02d}:{clock[1]:02d}, outside of {hours}")


def test_a_board_that_does_not_know_the_time_does_not_sleep(board: Callable[..., Board]) -> None:
    it = board(hours="22:00-06:00")
    it.time = (1970, 1, 1, 12, 0)
    assert it.look() == GO
    it.time = (2026, 11, 22, 12, 0)  # now it has been told
    assert it.look().state == "asleep"


def test_planned_sleep_is_said_before_what_else_is_wrong(board: Callable[..., Board]) -> None:
    it = board(hours="08:00-09:00", min_memory_mib=50)
    sysfs.memory(it.root, 10.0)
    assert it.look() == Hold("asleep", "it is 23:30, outside of 08:00-09:00", memory=True)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('hours = "22-6"', 'guards: hours must be like "22:00-06:00"'),
        ('hours = "24:00-06:00"', 'guards: hours must be like "22:00-06:00"'),
        ('hours = "06:00-06:00"', 'guards: hours must be like "22:00-06:00"'),
        ("max_temperature = 400", "guards: max_temperature must be 0 to 150 degrees C"),
        ("min_battery = 101", "guards: min_battery must be 0 to 100 percent"),
        ("min_disk_mib = -1", "guards: a limit must not be negative"),
        ('metered = "wwan0"', "guards.metered must be a list, not str"),
        ("max_temp = 80", "unknown setting guards.max_temp; known here: max_temperature, throttled"),
    ],
)
def test_mistakes_in_the_settings_name_their_key(tmp_path: Path, table: str, reason: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'device = "d1"\nfleet = "mill"\n[guards]\n{table}\n')
    with pytest.raises(SettingsError) as caught:
        load_agent(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
