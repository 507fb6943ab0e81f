"""Vectors in pieces: together they are the whole, and each piece has a thread of its own."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cloud.cores import LEAST, THREADS, pieces, spread

LONG = LEAST * (THREADS + 1)


@given(st.integers(0, 3 * LONG))
def test_pieces_make_up_the_whole_without_gap_or_overlap(size: int) -> None:
    found = pieces(size)
    assert [found[0].start, *(piece.stop for piece in found)] == [*(piece.start for piece in found), size]
    lengths = [piece.stop - piece.start for piece in found]
    assert max(lengths) - min(lengths) <= 1
    assert len(found) == 1 or min(lengths) >= LEAST


def test_a_long_vector_is_worked_at_by_as_many_threads_as_there_are_cores() -> None:
    together = threading.Barrier(THREADS)  # breaks unless all of them are there at a time

    def work(piece: slice) -> int:
        together.wait(30.0)
        return piece.stop

    assert spread(work, LONG) == [piece.stop for piece in pieces(LONG)]
    assert len(pieces(LONG)) == THREADS


def test_a_short_vector_stays_with_its_caller() -> None:
    assert spread(lambda _: threading.get_ident(), 2 * LEAST - 1) == [threading.get_ident()]
    assert spread(lambda piece: piece, 0) == [slice(0, 0)]


def test_an_error_in_any_piece_is_raised() -> None:
    def work(piece: slice) -> None:
        if piece.stop == LONG:
            raise ValueError("the last one")

    with pytest.raises(ValueError, match="the last one"):
        spread(work, LONG)


def test_a_forked_process_has_threads_of_its_own() -> None:
    def total() -> int:
        return sum(spread(lambda piece: piece.stop - piece.start, LONG))

    assert total() == LONG
    child = os.fork()
    if child == 0:
        os._exit(total() != LONG)
    assert os.waitpid(child, 0)[1] == 0


def test_what_threads_write_is_the_same_as_what_one_does() -> None:
    values, found = np.arange(LONG, dtype=np.float64), np.zeros(LONG)

    def work(piece: slice) -> None:
        np.sqrt(values[piece], out=found[piece])

    spread(work, LONG)
    assert np.array_equal(found, np.sqrt(values))
