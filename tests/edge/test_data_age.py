"""How long examples are kept: by age where the clock can be trusted, and never dropped by one that cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stores import HEADER, RECORD, files, held, numbered

from fedfleet.edge.data import SHARES, Store
from fedfleet.wire.clock import CLOCK_SET

DAY = 86400.0
NOW = 1_795_000_000.0
AGE = 8 * DAY


class Clock:
    """A board's clock, set by hand."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def append(self, folder: Path, start: int, stop: int, age: float = AGE) -> Store:
        """Add examples as if it were the time that this clock says."""
        before = {path: path.stat().st_mtime for path in files(folder)}
        store = self.open(folder, age)
        store.append(numbered(start, stop))
        for path in files(folder):
            if path not in before:
                os.utime(path, (self.now, self.now))
            else:
                assert path.stat().st_mtime == before[path]  # that of its beginning
        return store

    def open(self, folder: Path, age: float = AGE) -> Store:
        return Store.open(folder, 2**20, HEADER + 50 * RECORD, age, self)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_too_old_goes_and_is_counted(clock: Clock, tmp_path: Path) -> None:
    for day in range(12):
        clock.append(tmp_path, 10 * day, 10 * day + 10)
        clock.now += DAY
    store = clock.open(tmp_path)
    assert store.forget() == 40
    assert (store.dropped, held(store)) == (40, list(range(40, 120)))
    assert store.forget() == 0
    clock.now += 30 * DAY
    assert store.forget() == 80
    assert (store.dropped, len(store), held(clock.open(tmp_path))) == (120, 0, [])


def test_a_segment_takes_no_more_once_it_has_a_part_of_that_age(clock: Clock, tmp_path: Path) -> None:
    for number, hours in enumerate((0, 12, 11, 2, 12)):
        clock.now += hours * 3600
        clock.append(tmp_path, number, number + 1)
    assert [path.stat().st_size for path in files(tmp_path)] == [HEADER + 3 * RECORD, HEADER + 2 * RECORD]
    assert SHARES == 8


def test_without_a_bound_nothing_goes_and_segments_are_filled(clock: Clock, tmp_path: Path) -> None:
    for number in range(5):
        clock.append(tmp_path, number, number + 1, age=0.0)
        clock.now += 100 * DAY
    store = clock.open(tmp_path, age=0.0)
    assert (store.forget(), held(store), len(files(tmp_path))) == (0, [0, 1, 2, 3, 4], 1)


def test_nothing_goes_by_a_clock_that_was_not_set_or_went_back(clock: Clock, tmp_path: Path) -> None:
    clock.append(tmp_path, 0, 5)
    clock.now += 2 * DAY
    clock.append(tmp_path, 5, 10)
    for wrong in (0.0, CLOCK_SET - 1, NOW - 300 * DAY, NOW + DAY):
        clock.now = wrong
        assert clock.open(tmp_path).forget() == 0
    clock.now = NOW + 9 * DAY
    store = clock.open(tmp_path)
    assert (store.forget(), held(store)) == (5, [5, 6, 7, 8, 9])


def test_what_was_stored_before_the_clock_was_set_counts_as_new_once_it_is(clock: Clock, tmp_path: Path) -> None:
    clock.now = 3600.0  # 1970: there is no battery for the clock
    clock.append(tmp_path, 0, 5)
    clock.now += 30 * DAY  # it is on for long, without a network
    clock.append(tmp_path, 5, 10)
    assert len(files(tmp_path)) == 1
    assert clock.open(tmp_path).forget() == 0
    clock.now = NOW
    assert clock.open(tmp_path).forget() == 0
    clock.now += AGE - 1
    assert clock.open(tmp_path).forget() == 0
    clock.now += 2
    assert clock.open(tmp_path).forget() == 10


def test_damaged_segments_go_by_age_too(clock: Clock, tmp_path: Path) -> None:
    clock.append(tmp_path, 0, 5)
    path = files(tmp_path)[0]
    raw = bytearray(path.read_bytes())
    raw[HEADER + 3] ^= 1
    path.write_bytes(raw)
    os.utime(path, (NOW, NOW))
    store = clock.open(tmp_path)
    assert (len(files(tmp_path)), len(files(tmp_path, "damaged")), held(store)) == (1, 1, [1, 2, 3, 4])
    clock.now += AGE + 1
    assert store.forget() == 4
    assert list(tmp_path.glob("0*")) == []


def test_a_torn_end_does_not_make_a_segment_younger(clock: Clock, tmp_path: Path) -> None:
    clock.append(tmp_path, 0, 5)
    path = files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-3])
    os.utime(path, (NOW, NOW))
    clock.now += AGE + 1
    assert clock.open(tmp_path).forget() == 4


def test_another_process_that_holds_the_store_goes_on_with_what_is_left(clock: Clock, tmp_path: Path) -> None:
    clock.append(tmp_path, 0, 5)
    clock.now += 2 * DAY
    other = clock.append(tmp_path, 5, 10)
    drawn = other.batches(5, 1)
    clock.now += AGE - DAY
    assert clock.open(tmp_path).forget() == 5
    assert sorted(n for batch in drawn for n in batch.y.tolist()) == list(range(10))  # it had them open
    assert held(other) == [5, 6, 7, 8, 9]
