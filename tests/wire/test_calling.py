"""Turns: each device once a lap whatever the windows, with others each time, and as docs/wire.md says it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.wire.calling import LAP, LAPS, Ability, Needs, ahead, place
from fedfleet.wire.messages import Blob, Plan, Task

DOC = Path(__file__).parents[2] / "docs" / "wire.md"
TASK = Task(1, Blob("a" * 64, 10), Blob("b" * 64, 40), Plan())
FLEET = [f"d{i}" for i in range(60)]
THREE_QUARTERS = 3 * LAP // 4


def rounds(start: int, sizes: list[int]) -> list[Task]:
    """Tasks whose windows stand one behind the other from `start` on."""
    tasks, task = [], replace(TASK, start=start, share=sizes[0] / LAP)
    for size in sizes[1:]:
        tasks.append(task)
        task = replace(task, start=task.next_start, share=size / LAP)
    return [*tasks, task]


@st.composite
def whole_laps(draw: st.DrawFn) -> tuple[int, list[int]]:
    """How many laps, and windows of up to 3/4 of one that cover them: some cross from a lap into the next."""
    laps = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(LAP // 20, THREE_QUARTERS), max_size=12))
    while sum(sizes) > laps * LAP:
        sizes.pop()
    while rest := laps * LAP - sum(sizes):
        sizes.append(min(rest, THREE_QUARTERS))
    return laps, sizes


@settings(deadline=None, max_examples=60)
@given(whole_laps(), st.integers(0, LAPS - 1))
def test_over_whole_laps_every_device_is_called_equally_often(found: tuple[int, list[int]], lap: int) -> None:
    laps, sizes = found
    tasks = rounds(lap * LAP, sizes)
    assert tasks[-1].next_start == (lap + laps) % LAPS * LAP
    calls = Counter(device for task in tasks for device in FLEET if task.calls(device))
    assert calls == dict.fromkeys(FLEET, laps)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, LAPS * LAP - 1), st.lists(st.integers(1, THREE_QUARTERS), min_size=1, max_size=12))
def test_wherever_rounds_begin_no_device_is_ever_more_than_two_calls_ahead(start: int, sizes: list[int]) -> None:
    turns = Counter(dict.fromkeys(FLEET, 0))
    for task in rounds(start, sizes):
        turns.update(device for device in FLEET if task.calls(device))
        assert max(turns.values()) - min(turns.values()) <= 2
    assert abs(sum(sizes) / LAP - max(turns.values())) < 1.5


@settings(deadline=None, max_examples=60)
@given(st.integers(0, LAPS * LAP - 1), st.sampled_from(FLEET))
def test_the_next_turn_is_the_first_place_from_there_on(start: int, device: str) -> None:
    lap, at = divmod(start, LAP)
    turns = [n * LAP + place((lap + n) % LAPS, device) - at for n in range(3)]
    assert ahead(start, device) == min(turn for turn in turns if turn >= 0)
    assert ahead((start + ahead(start, device)) % (LAPS * LAP), device) == 0  # it stands there
    assert all(THREE_QUARTERS < later - turn < 5 * LAP // 4 for turn, later in pairwise(turns))


def test_cohorts_of_different_laps_mix() -> None:
    fleet = [f"d{i}" for i in range(4000)]
    cohorts = [
        {device for device in fleet if replace(TASK, start=lap * LAP, share=0.1).calls(device)} for lap in range(6)
    ]
    for first, second in zip(cohorts, cohorts[1:] + cohorts[:1]):
        assert 320 < len(first) < 480
        assert 100 < len(first & second) < 220  # 4 in 10 of a quarter, by chance alone


def test_places_are_spread_evenly_over_the_lap() -> None:
    for lap in (0, 1, 77, LAPS - 1):
        tenths = Counter(10 * place(lap, f"d{i}") // LAP for i in range(5000))
        assert sorted(tenths) == list(range(10))
        assert all(400 < count < 600 for count in tenths.values())


def test_a_share_is_rounded_once_and_one_is_everybody() -> None:
    assert replace(TASK, share=1e-30).window == 1
    assert replace(TASK, share=0.1).window == 429496730
    assert TASK.window == LAP
    assert replace(TASK, start=LAPS * LAP - 1).next_start == LAP - 1
    assert all(replace(TASK, start=start).calls(device) for start in (0, 1, LAP // 2) for device in FLEET)


def test_the_example_of_the_document_is_so_and_made_as_it_says() -> None:
    digest = hashlib.sha256(b"call:d0").digest()
    step, first = (int.from_bytes(part, "big") for part in (digest[:8], digest[8:16]))
    said = re.search(r"`d0` is at (\d+) in lap 0, at (\d+) in lap 1", DOC.read_text())
    assert said is not None
    for lap in (0, 1):
        wanted = (digest[16] >> 6) * 2**30 + ((first + step * lap) % 2**64) // 2**34
        assert place(lap, "d0") == wanted == int(said[lap + 1])


def test_needs_are_met_by_all_tags_and_enough_memory_and_say_what_they_are() -> None:
    needs = Needs(("camera", "line-3"), 512)
    assert needs.met(Ability(("line-3", "b", "camera"), 512, "aarch64", "litert"))
    assert not needs.met(Ability(("line-3",), 512))
    assert not needs.met(Ability(("line-3", "camera"), 511))
    assert Needs().met(Ability())
    assert str(needs) == "the tag camera and the tag line-3 and 512 MiB of memory"
    assert (str(Needs(memory_mib=9)), str(Needs())) == ("9 MiB of memory", "")
