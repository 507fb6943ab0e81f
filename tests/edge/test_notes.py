"""An append that was cut off anywhere is made again without adding anything twice, whoever else added meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import HEADER, RECORD, files, held, numbered, small

from fedfleet.edge import notes
from fedfleet.wire.errors import StoreError

OLD, NEW, OTHER = numbered(0, 3), numbered(100, 112), numbered(900, 902)
HELD_NEW = list(range(100, 112))


def cut(folder: Path, records: int) -> None:
    """Leave `records` records in all, as if the power had gone while the next one was on its way."""
    for path in files(folder):
        rows = (path.stat().st_size - HEADER) // RECORD
        if records <= 0:
            path.unlink()
        elif rows > records:
            with path.open("r+b") as file:
                file.truncate(HEADER + records * RECORD)
        records -= rows


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """A store to which `NEW` was added behind `OLD` under a name; over four segments of five."""
    small(tmp_path / "whole").append(OLD)
    small(tmp_path / "whole").append(NEW, "a")
    return tmp_path / "whole"


def test_at_every_record(cut_off: Path, tmp_path: Path) -> None:
    for stored in range(len(NEW.y) + 1):
        folder = shutil.copytree(cut_off, tmp_path / str(stored))
        cut(folder, 3 + stored)
        assert held(small(folder)) == [0, 1, 2, *HELD_NEW[:stored]]
        for _ in range(3):
            small(folder).append(NEW, "a")
            assert held(small(folder)) == [0, 1, 2, *HELD_NEW]


def test_at_every_record_with_others_adding_before_it_is_made_again(cut_off: Path, tmp_path: Path) -> None:
    for stored in range(len(NEW.y) + 1):
        folder = shutil.copytree(cut_off, tmp_path / str(stored))
        cut(folder, 3 + stored)
        small(folder).append(OTHER)
        small(folder).append(OTHER)
        small(folder).append(NEW, "a")
        small(folder).append(NEW, "a")
        assert held(small(folder)) == [0, 1, 2, *HELD_NEW[:stored], 900, 901, 900, 901, *HELD_NEW[stored:]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["new", "other"]), st.integers(0, 12)), max_size=5))
def test_cut_off_again_and_again(tmp_path_factory: pytest.TempPathFactory, tries: list[tuple[str, int]]) -> None:
    folder = tmp_path_factory.mktemp("store")
    small(folder).append(OLD)
    for who, lost in tries:
        before = len(small(folder))
        if who == "other":
            small(folder).append(OTHER)
            continue
        small(folder).append(NEW, "a")
        cut(folder, max(before, len(small(folder)) - lost))
    small(folder).append(NEW, "a")
    mine = [n for n in held(small(folder)) if 100 <= n < 200]
    assert mine == HELD_NEW
    shutil.rmtree(folder)


def test_another_name_is_another_append(cut_off: Path) -> None:
    small(cut_off).append(NEW, "b")
    assert held(small(cut_off)) == [0, 1, 2, *HELD_NEW, *HELD_NEW]
    small(cut_off).append(NEW, "a")  # one is remembered, the newest
    assert held(small(cut_off)) == [0, 1, 2, *HELD_NEW, *HELD_NEW, *HELD_NEW]


def test_without_a_name_nothing_is_written_down(tmp_path: Path) -> None:
    for _ in range(2):
        small(tmp_path).append(OLD)
    assert held(small(tmp_path)) == [0, 1, 2, 0, 1, 2]
    assert not (tmp_path / notes.NAME).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 3}', '{"name": "a"}', "\0" * 64])
def test_a_damaged_note_is_none(cut_off: Path, text: str) -> None:
    (cut_off / notes.NAME).write_text(text)
    assert notes.recall(cut_off) is None
    small(cut_off).append(OTHER, "c")
    assert held(small(cut_off)) == [0, 1, 2, *HELD_NEW, 900, 901]


def test_a_note_that_cannot_be_written_leaves_the_store_as_it_was(cut_off: Path) -> None:
    (cut_off / notes.NAME).unlink()
    (cut_off / notes.NAME / "in the way").mkdir(parents=True)
    with pytest.raises(StoreError, match=notes.NAME):
        small(cut_off).append(OTHER, "c")
    assert held(small(cut_off)) == [0, 1, 2, *HELD_NEW]


def test_examples_that_made_room_were_stored_all_the_same(tmp_path: Path) -> None:
    bound = 4 * (HEADER + 5 * RECORD)
    small(tmp_path, bound).append(numbered(0, 18))
    small(tmp_path, bound).append(NEW, "a")
    small(tmp_path, bound).append(NEW, "a")
    assert held(small(tmp_path, bound))[-12:] == HELD_NEW
    assert held(small(tmp_path, bound)).count(100) == 1
