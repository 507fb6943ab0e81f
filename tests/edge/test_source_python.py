"""A function of the owner's as a source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedfleet.edge.data import Store
from fedfleet.edge.sources.python import PythonSource
from fedfleet.edge.sources.settings import Python
from fedfleet.wire.errors import DataError, SettingsError, StoreError

CODE = """
import numpy as np
calls = []
answers = []

def read():
    calls.append(1)
    return answers.pop(0) if answers else None

number = 3
"""


class Board:
    """A module of the owner's, and a clock set by hand."""

    def __init__(self, root: Path) -> None:
        (root / "probe_of_mine.py").write_text(CODE)
        self.now = 0.0
        self.store = Store.open(root / "examples")
        self.source = PythonSource(Python("probe_of_mine:read", every=10.0), root, lambda: self.now)
        self.module = sys.modules["probe_of_mine"]

    def poll(self, *answers: object, seconds: float = 10.0) -> int:
        self.module.answers.extend(answers)
        self.now += seconds
        return self.source.poll(self.store)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Board(tmp_path)
    del sys.modules["probe_of_mine"]


def test_what_it_returns_is_stored(board: Board) -> None:
    assert board.poll(None) == 0
    assert board.poll((np.ones((2, 3)), np.array([1, 2]))) == 2
    assert board.poll(([[1, 2, 3]], [4])) == 1
    assert board.poll((np.ones((0, 3)), np.array([], int))) == 0
    assert board.store.arrays().y.tolist() == [1, 2, 4]


def test_numbers_that_are_no_classes_are_targets(board: Board) -> None:
    assert board.poll((np.ones((2, 3)), np.array([1.0, 2.5]))) == 2
    assert board.poll((np.ones((1, 3)), np.array([[7.0]]))) == 1
    assert board.store.arrays().y.tolist() == [[1.0], [2.5], [7.0]]


def test_it_is_called_as_often_as_was_asked(board: Board) -> None:
    for _ in range(35):
        board.poll(seconds=1.0)
    assert len(board.module.calls) == 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (np.ones(3), "returned a ndarray: return arrays (x, y), or None"),
        ((1, 2, 3), "returned a tuple: return arrays (x, y), or None"),
        ((np.array(["a"]), np.array([1])), "returned <U1 and int64: return arrays of numbers"),
        ((np.ones((2, 3)), np.array([0, -1])), "y goes from -1 to 0: labels start at 0"),
        ((np.ones((2, 3)), 7), "y has integers in shape []"),
        ((np.ones((2, 3)), 7.5), "y must be int32[N] labels or float32[N, k] targets"),
        ((np.full((1, 3), np.nan), np.array([1])), "x row 0, column 0 (from 0) is nan"),
        ((np.ones(2), np.array([0, 1])), "x must be float32[N, ...]"),
    ],
)
def test_what_cannot_be_trained_on_is_dropped_with_a_reason(board: Board, answer: object, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        board.poll(answer)
    assert str(caught.value).startswith("probe_of_mine:read") and reason in str(caught.value)
    assert board.poll((np.ones((1, 3)), np.array([1]))) == 1


def test_nothing_is_lost_while_the_disk_refuses(board: Board, tmp_path: Path) -> None:
    (tmp_path / "examples" / "lock").unlink()
    (tmp_path / "examples" / "lock").mkdir()
    for _ in range(3):
        with pytest.raises(StoreError):
            board.poll((np.ones((1, 3)), np.array([5])))
    assert len(board.module.calls) == 1  # no more, until this is stored
    (tmp_path / "examples" / "lock").rmdir()
    board.module.answers.clear()
    assert board.poll() == 1
    assert board.store.arrays().y.tolist() == [5]


def test_its_own_faults_are_not_hidden(board: Board) -> None:
    del board.module.answers
    with pytest.raises(NameError):
        board.source.poll(board.store)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_probe:read", "No module named 'no_such_probe'; put no_such_probe.py into "),
        ("probe_of_mine:write", "probe_of_mine has no function write"),
        ("probe_of_mine:number", "probe_of_mine has no function number"),
    ],
)
def test_a_function_that_is_not_there_is_named(board: Board, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=r"source\.python\.callable") as caught:
        PythonSource(Python(name), tmp_path)
    assert reason in str(caught.value)
