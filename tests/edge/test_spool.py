"""The spool: what was kept comes back whole, damage is found, and it never takes more than it may."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.edge.spool import Rotten, Spool
from fedfleet.wire.chunks import offer
from fedfleet.wire.errors import FrameError, StoreError
from fedfleet.wire.messages import CHUNK, Update

ROOM = 10 * CHUNK


def update(size: int, number: int = 4) -> Update:
    return Update(number, "d1", 12, "float32", random.Random(size).randbytes(size), {"loss": 0.5})


@settings(max_examples=30)
@given(st.integers(1, 4 * CHUNK))
def test_it_gives_back_what_it_got(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    folder, kept = tmp_path_factory.mktemp("spool"), update(size)
    said = Spool(folder, ROOM).keep(kept)
    again = Spool(folder, ROOM)
    found = again.offer(4)
    assert found == said == offer(kept)
    assert b"".join(again.part(found, index) for index in range(found.blob.chunks)) == kept.delta
    assert again.offer(5) is None


def test_it_holds_the_newest_update_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM)
    spool.keep(update(10, 4))
    spool.keep(update(20, 5))
    assert spool.offer(4) is None
    assert spool.offer(5) == offer(update(20, 5))
    spool.clear()
    assert spool.offer(5) is None
    spool.clear()


@settings(max_examples=60)
@given(st.data())
def test_any_damage_is_found_and_removed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("spool")
    Spool(folder, ROOM).keep(update(500))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    torn = whole[:at] if data.draw(st.booleans()) else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    path.write_bytes(torn)
    with pytest.raises(Rotten):
        Spool(folder, ROOM).offer(4)
    assert list(folder.iterdir()) == []


def test_what_another_version_has_spooled_is_found_and_removed(tmp_path: Path) -> None:
    (tmp_path / "4.parts").write_bytes(b"frames, one behind the other")
    (tmp_path / ".4.update.tmp").write_bytes(b"torn")
    spool = Spool(tmp_path, ROOM)
    with pytest.raises(Rotten):
        spool.offer(4)
    assert spool.offer(4) is None
    assert [path.name for path in tmp_path.iterdir()] == [".4.update.tmp"]


def test_an_update_over_its_bound_is_refused_and_what_to_do_is_said(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM)
    spool.keep(update(ROOM))
    with pytest.raises(StoreError, match=f"an update of {ROOM + 1} bytes is over max_spool_bytes, {ROOM}; raise it or"):
        spool.keep(update(ROOM + 1, 5))
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_there_is_not_is_refused(tmp_path: Path) -> None:
    spool, kept = Spool(tmp_path, ROOM), update(2 * CHUNK)
    spool.keep(kept)
    for index in (-1, 2, 10**9):
        with pytest.raises(FrameError, match=f"chunk {index} of a blob with 2"):
            spool.part(offer(kept), index)
    spool.clear()
    with pytest.raises(StoreError, match="cannot be read"):
        spool.part(offer(kept), 0)
