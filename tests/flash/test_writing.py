"""An image onto a card: what a card that fails in any way looks like afterwards, and what is said of it."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from fedfleet.cloud.flash import writing
from fedfleet.cloud.flash.image import CHUNK
from fedfleet.cloud.flash.partitions import SECTOR
from fedfleet.wire.errors import SettingsError, StoreError

IMAGE = np.random.default_rng(7).bytes(2 * CHUNK + 3 * SECTOR)


@dataclass
class Plate:
    """A card of bytes. What is written is to be had before `sync` as well; `tamper` is called at each sync."""

    size: int = len(IMAGE) + 10 * SECTOR
    most: int = 2**40  # bytes that one write takes
    fails_at: int = 2**40
    sync_fails: bool = False
    tamper: Callable[[bytearray], None] = lambda data: None
    data: bytearray = field(default_factory=bytearray)
    order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = self.data or bytearray(b"\xff" * self.size)

    def read(self, start: int, size: int) -> bytes:
        return bytes(self.data[start : start + size])

    def write(self, start: int, data: bytes) -> int:
        if start + len(data) > self.fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        part = data[: self.most]
        self.data[start : start + len(part)] = part
        self.order.append(start)
        return len(part)

    def sync(self) -> None:
        if self.sync_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.tamper(self.data)


def write(plate: Plate, image: bytes = IMAGE) -> bool:
    return writing.write(io.BytesIO(image), plate, "/dev/sdx", lambda what, done, total: None)


def incomplete(plate: Plate) -> bool:
    return bytes(plate.data[:SECTOR]) == writing.INCOMPLETE


def refused(plate: Plate, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        write(plate)
    assert "\n" not in str(caught.value)
    assert "/dev/sdx" in str(caught.value)


def test_the_first_sector_is_written_last() -> None:
    plate = Plate()
    assert write(plate)
    assert bytes(plate.data[: len(IMAGE)]) == IMAGE
    assert bytes(plate.data[len(IMAGE) :]) == b"\xff" * 10 * SECTOR
    assert (plate.order[0], plate.order[-1]) == (0, 0)
    assert plate.order[1:-1] == sorted(plate.order[1:-1])
    assert SECTOR in plate.order


def test_the_same_again_is_not_written() -> None:
    plate = Plate()
    write(plate)
    plate.order.clear()
    assert not write(plate)
    assert plate.order == []
    plate.data[len(IMAGE) - 1] ^= 1
    assert write(plate)
    assert bytes(plate.data[: len(IMAGE)]) == IMAGE


def test_progress_ends_at_the_end() -> None:
    seen = dict[str, int]()
    writing.write(io.BytesIO(IMAGE), Plate(), "x", lambda what, done, total: seen.update({what: done / total}))
    assert seen == {"writing": 1.0, "reading back": 1.0}


@pytest.mark.parametrize("most", [SECTOR, 1000, CHUNK - 1])
def test_writes_that_are_cut_short_are_gone_on_with(most: int) -> None:
    plate = Plate(most=most)
    write(plate)
    assert bytes(plate.data[: len(IMAGE)]) == IMAGE


def test_a_card_that_takes_no_more() -> None:
    plate = Plate(most=0)
    refused(plate, "takes no more at byte 0")


@pytest.mark.parametrize("place", [SECTOR, CHUNK, len(IMAGE) - 1])
def test_an_error_half_way_leaves_a_card_that_does_not_start(place: int) -> None:
    plate = Plate(fails_at=place)
    refused(plate, "cannot be written at byte [0-9,]+: Input/output error; the card is marked incomplete")
    assert incomplete(plate)


def test_an_error_that_the_card_reports_late() -> None:
    refused(Plate(sync_fails=True), "does not keep what is written: Input/output error")


@pytest.mark.parametrize("place", [SECTOR, CHUNK + 77, len(IMAGE) - 1])
def test_a_byte_that_reads_back_other_than_it_was_written(place: int) -> None:
    def flip(data: bytearray) -> None:
        data[place] = IMAGE[place] ^ 0x10

    plate = Plate(tamper=flip)
    refused(plate, f"reads back other than it was written at byte {place:,}; the card is marked incomplete")
    assert incomplete(plate)


def test_a_first_sector_that_does_not_stay() -> None:
    def forget(data: bytearray) -> None:
        data[3] = 0

    refused(Plate(tamper=forget), "reads back other than it was written at byte 3;")


def test_a_card_that_claims_to_be_larger_than_it_is() -> None:
    """Such cards begin again from the start: what is written beyond their true size lands on what was written first."""
    real = CHUNK + SECTOR

    class Fake(Plate):
        def write(self, start: int, data: bytes) -> int:
            for place in range(start, start + len(data), SECTOR):
                piece = data[place - start : place - start + SECTOR]
                self.data[place % real : place % real + len(piece)] = piece
            return len(data)

        def read(self, start: int, size: int) -> bytes:
            places = range(start, start + size, SECTOR)
            return b"".join(bytes(self.data[p % real : p % real + SECTOR]) for p in places)[:size]

    refused(Fake(), "reads back other than it was written at byte")


def test_a_card_that_is_too_small_is_not_touched() -> None:
    plate = Plate(size=len(IMAGE) - 1)
    with pytest.raises(SettingsError, match="too small, the image has"):
        write(plate)
    assert plate.order == []


def test_an_interruption_leaves_a_card_that_does_not_start() -> None:
    class Interrupted(Plate):
        def write(self, start: int, data: bytes) -> int:
            if start >= CHUNK:
                raise KeyboardInterrupt
            return super().write(start, data)

    plate = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        write(plate)
    assert incomplete(plate)
