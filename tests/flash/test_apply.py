"""Files onto a boot partition that fails half-way, forgets, or is full: a marker stays until all is whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fedfleet.cloud.flash.apply import MARKER, SPARE, apply
from fedfleet.wire.errors import SettingsError, StoreError

PLANNED = {"fedfleet/a": b"1" * 1000, "fedfleet/b": b"2", "cmdline.txt": b"hook\n"}


@dataclass
class Shelf:
    """A boot partition of a dict. It fails after so many writes, and keeps what `keeps` makes of each file."""

    files: dict[str, bytes] = field(default_factory=lambda: {"cmdline.txt": b"old\n", "config.txt": b"x"})
    writes: int = 1000
    room: int = 10**9
    spoils: str = ""
    cluster: int = 512
    log: list[str] = field(default_factory=list)

    def names(self) -> frozenset[str]:
        return frozenset(self.files)

    def free(self) -> int:
        return self.room

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def write(self, name: str, data: bytes) -> None:
        if self.writes == 0:
            raise StoreError("the card is gone")
        self.writes -= 1
        self.log.append(name)
        self.files[name] = data[:-1] if name == self.spoils else data

    def remove(self, name: str) -> None:
        del self.files[name]

    def sync(self) -> None:
        self.log.append("sync")


def test_the_marker_comes_first_and_goes_last_and_the_hook_is_the_last_file() -> None:
    shelf = Shelf()
    outcome = apply(shelf, PLANNED, "card")
    assert shelf.files == {"config.txt": b"x", **PLANNED}
    assert shelf.log == [MARKER, *PLANNED, "sync", "sync"]
    assert (outcome.written, outcome.removed, outcome.same) == (tuple(PLANNED), (), ())


def test_the_same_again_writes_nothing() -> None:
    shelf = Shelf()
    apply(shelf, PLANNED, "card")
    shelf.log.clear()
    outcome = apply(shelf, PLANNED, "card")
    assert (outcome.changed, outcome.same, shelf.log) == (False, tuple(PLANNED), [])


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_card_that_is_pulled_out_stays_marked_and_does_not_start_anything(writes: int) -> None:
    shelf = Shelf(writes=writes)
    with pytest.raises(StoreError, match="the card is gone"):
        apply(shelf, PLANNED, "card")
    assert MARKER in shelf.files
    assert shelf.files["cmdline.txt"] == b"old\n"
    shelf.writes = 1000
    assert apply(shelf, PLANNED, "card").changed
    assert shelf.files == {"config.txt": b"x", **PLANNED}


def test_a_marker_alone_is_reason_enough_to_look_again() -> None:
    shelf = Shelf({**PLANNED, MARKER: b""})
    assert apply(shelf, PLANNED, "card").removed == (MARKER,)
    assert shelf.files == PLANNED


def test_what_reads_back_other_than_it_was_written_is_named() -> None:
    shelf = Shelf(spoils="fedfleet/a")
    with pytest.raises(StoreError, match="card: fedfleet/a does not read back as it was written; take another card"):
        apply(shelf, PLANNED, "card")
    assert MARKER in shelf.files


def test_room_is_counted_in_whole_clusters_before_anything_is_written() -> None:
    need = (2 + 1 + 1 + SPARE) * 512
    with pytest.raises(SettingsError, match=f"card: {need - 1:,} bytes are free .* and {need:,} are needed"):
        apply(shelf := Shelf(room=need - 1), PLANNED, "card")
    assert shelf.log == []
    assert apply(Shelf(room=need), PLANNED, "card").changed


def test_only_what_is_ours_is_removed() -> None:
    others = {"fedfleet/old.whl": b"x", "fedfleet/install.log": b"y", "overlays/z": b"z"}
    shelf = Shelf({**others})
    assert apply(shelf, PLANNED, "card").removed == ("fedfleet/old.whl",)
    assert shelf.files == {"fedfleet/install.log": b"y", "overlays/z": b"z", **PLANNED}
