"""What a crash, a bad card, a full disk or another process does to the device's example store: as little as can be."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import HEADER, RECORD, files, held, numbered, small

from fedfleet.edge import segments
from fedfleet.edge.data import Store
from fedfleet.wire.errors import StoreError
from fedfleet.wire.examples import Examples


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("store")
    yield path
    shutil.rmtree(path)


def test_a_newer_version_is_left_alone(folder: Path) -> None:
    small(folder).append(numbered(0, 2))
    (path,) = files(folder)
    raw = bytearray(path.read_bytes())
    raw[4:6] = (2).to_bytes(2, "little")
    raw[HEADER - 4 : HEADER] = segments.CHECKSUM.pack(zlib.crc32(raw[: HEADER - 4]))
    path.write_bytes(raw)
    with pytest.raises(StoreError, match="version 2"):
        small(folder)
    assert path.read_bytes() == raw


# damage


@pytest.mark.parametrize("rest", ["gone", "zeros", "ones"])
def test_a_last_record_torn_at_any_byte_is_cut_off(folder: Path, rest: str) -> None:
    small(folder).append(numbered(0, 3))
    (path,) = files(folder)
    before = path.read_bytes()
    small(folder).append(numbered(3, 4))
    after = path.read_bytes()
    filler = {"gone": b"", "zeros": bytes(RECORD), "ones": b"\xff" * RECORD}[rest]
    for cut in range(RECORD):
        torn = after[: len(before) + cut] + filler[cut:]
        assert torn != after
        path.write_bytes(torn)
        store = small(folder)
        assert held(store) == [0, 1, 2] and path.read_bytes() == before
        assert (store.torn, store.damaged) == (len(torn) - len(before), 0)
    store.append(numbered(3, 8))
    assert held(small(folder)) == list(range(8))


def test_several_records_torn_by_one_cut(folder: Path) -> None:
    small(folder).append(numbered(0, 5))
    (path,) = files(folder)
    whole = path.read_bytes()
    for size in range(HEADER, len(whole)):
        path.write_bytes(whole[:size])
        assert held(small(folder)) == list(range((size - HEADER) // RECORD))


def test_a_header_cut_at_any_byte_costs_that_file_only(folder: Path) -> None:
    small(folder).append(numbered(0, 7))
    last = files(folder)[-1]
    whole = last.read_bytes()
    for size in range(HEADER):
        last.write_bytes(whole[:size])
        store = small(folder)
        assert held(store) == [0, 1, 2, 3, 4] and store.damaged == 1
        assert last.with_suffix(".damaged").read_bytes() == whole[:size]
    store.append(numbered(5, 6))
    assert held(small(folder)) == [0, 1, 2, 3, 4, 5]


def test_a_damaged_middle_keeps_its_whole_records_and_the_evidence(folder: Path) -> None:
    small(folder).append(numbered(0, 15))
    middle = files(folder)[1]
    raw = bytearray(middle.read_bytes())
    raw[HEADER + 2 * RECORD + 7] ^= 0x10
    middle.write_bytes(raw)
    store = small(folder)
    assert held(store) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]
    assert (store.damaged, store.torn) == (1, 0)
    assert files(folder, "damaged")[0].read_bytes() == raw
    again = small(folder)
    assert len(again) == 14 and again.damaged == 0


def test_a_middle_segment_cut_short_is_damage_not_a_torn_end(folder: Path) -> None:
    small(folder).append(numbered(0, 8))
    first = files(folder)[0]
    first.write_bytes(first.read_bytes()[:-3])
    store = small(folder)
    assert held(store) == [0, 1, 2, 3, 5, 6, 7] and (store.damaged, store.torn) == (1, 0)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_flipped_bit_costs_little_and_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    small(folder).append(numbered(0, 13))
    path = data.draw(st.sampled_from(files(folder)))
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    store = small(folder)
    left = held(store)
    assert set(left) <= set(range(13)) and left == sorted(left)
    assert len(left) == 12 if at >= HEADER else len(left) >= 8
    assert store.damaged + (store.torn > 0) == 1
    store.append(numbered(13, 20))
    assert held(small(folder)) == [*left, *range(13, 20)]
    shutil.rmtree(folder)


def test_segments_that_changed_places_are_told_apart(folder: Path) -> None:
    small(folder).append(numbered(0, 10))
    first, second = files(folder)
    second.write_bytes(first.read_bytes())
    store = small(folder)
    assert held(store) == [0, 1, 2, 3, 4] and store.damaged == 1


def test_a_record_of_another_segment_is_not_taken(folder: Path) -> None:
    small(folder).append(numbered(0, 10))
    first, second = (path.read_bytes() for path in files(folder))
    files(folder)[1].write_bytes(second[:-RECORD] + first[-RECORD:])
    assert held(small(folder)) == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_a_segment_of_another_schema_is_set_aside(folder: Path) -> None:
    small(folder).append(numbered(0, 2))
    stray = Examples(np.ones((1, 9), np.float32), np.zeros(1, np.int32))
    segments.create(folder / "0000000002.segment", segments.Schema((9,), None), stray)
    store = small(folder)
    assert held(store) == [0, 1] and store.damaged == 1


def test_damaged_files_count_against_the_bound_and_go_first(folder: Path) -> None:
    bound = 3 * (HEADER + 5 * RECORD)
    small(folder, bound).append(numbered(0, 15))
    files(folder)[0].write_bytes(b"rubbish" * 30)
    store = small(folder, bound)
    assert store.damaged == 1 and len(files(folder, "damaged")) == 1
    store.append(numbered(15, 20))
    assert held(store) == list(range(5, 20))
    assert files(folder, "damaged") == [] and store.dropped == 0


def test_leftovers_of_a_write_are_swept(folder: Path) -> None:
    small(folder).append(numbered(0, 2))
    (folder / ".0000000002.segment.tmp").write_bytes(b"half")
    assert held(small(folder)) == [0, 1]
    assert sorted(path.name for path in folder.iterdir()) == ["0000000001.segment", "lock"]


def test_files_of_others_are_let_be(folder: Path) -> None:
    small(folder).append(numbered(0, 2))
    strays = [folder / name for name in ("0000000001.segment.bak", "7notes.txt", "9.damaged", "0000000009.segment~")]
    for stray in strays:
        stray.write_text("mine")
    small(folder).append(numbered(2, 20))
    store = small(folder)
    assert held(store) == list(range(20)) and store.damaged == 0
    assert {stray.read_text() for stray in strays} == {"mine"}


# other processes


APPEND = """
import sys
import numpy as np
from fedfleet.edge.data import Store
from fedfleet.wire.examples import Examples
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = Store.open(folder, 2**24, 64 + 5 * 32)
for n in range(first, last):
    store.append(Examples(np.full((1, 2, 3), n, np.float32), np.array([n], np.int32)))
    print(n, flush=True)
"""


def appending(folder: Path, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPEND, str(folder), str(first), str(last)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize("moment", [1, 4, 5, 6, 23])
def test_a_process_killed_while_appending_loses_nothing_it_was_told(folder: Path, moment: int) -> None:
    with appending(folder, 0, 10**6) as process:
        assert process.stdout
        told = [int(line) for line in islice(process.stdout, moment)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout if line.endswith("\n")]
    store = small(folder)
    assert held(store) == list(range(len(store)))
    assert len(told) <= len(store) <= len(told) + 1
    assert store.damaged == 0


def test_writers_and_readers_in_many_processes_do_not_disturb_each_other(folder: Path) -> None:
    store = small(folder)
    store.append(numbered(0, 1))
    writers = [appending(folder, first, first + 60) for first in (100, 200)]
    while any(writer.poll() is None for writer in writers):
        for reader in (store, small(folder)):
            assert sum(int(batch.weight.sum()) for batch in reader.batches(7, 1)) >= 1
            assert (reader.torn, reader.damaged) == (0, 0)
    for writer in writers:
        assert writer.communicate()[0].count("\n") == 60 and writer.returncode == 0
    store.append(numbered(1, 2))
    got = held(small(folder))
    assert sorted(got) == [0, 1, *range(100, 160), *range(200, 260)] == sorted(held(store))
    assert [n for n in got if 100 <= n < 200] == list(range(100, 160))


def test_a_full_disk_takes_nothing_away(folder: Path) -> None:
    store = Store.open(folder, 2**20, HEADER + 100 * RECORD)
    store.append(numbered(0, 3))
    before = files(folder)[0].read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER + 4 * RECORD + 5, hard))
    try:
        with pytest.raises(StoreError, match="File too large"):
            store.append(numbered(3, 6))
        assert files(folder)[0].read_bytes() == before and len(store) == 3
        store.append(numbered(3, 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert held(store) == held(small(folder)) == [0, 1, 2, 3]
