"""An image onto a card: everything but the first sector, all of it read back, the first sector last.

Until then the first sector says that the card is incomplete. No board starts from it, whatever went wrong and when.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from fedfleet.cloud.flash.image import CHUNK, Progress
from fedfleet.cloud.flash.partitions import SECTOR
from fedfleet.cloud.flash.target import Target
from fedfleet.wire.errors import SettingsError, StoreError

INCOMPLETE = b"fedfleet flash has not finished with this card. Write it again.\n".ljust(SECTOR, b"\0")
AGAIN = "the card is marked incomplete and does not start; try again, or another card"


def write(image: BinaryIO, target: Target, name: str, progress: Progress) -> bool:
    """Make `target` begin with the bytes of `image`; return whether anything had to be written.

    Raises StoreError where the target fails, takes less than it is given, or does not read back the same.
    """
    size = image.seek(0, 2)
    if size > target.size:
        raise SettingsError(
            f"{name}: too small, the image has {size:,} bytes and it {target.size:,}; take a larger card"
        )
    if _same(image, target, size, name, progress):
        return False
    _put(target, 0, INCOMPLETE, name)
    _sync(target, name)
    for start, data in _chunks(image, SECTOR):
        _put(target, start, data, name)
        progress("writing", start + len(data), size)
    _sync(target, name)
    for start, data in _chunks(image, SECTOR):
        _compare(target, start, data, name)
        progress("reading back", start + len(data), size)
    image.seek(0)
    first = image.read(SECTOR)
    _put(target, 0, first, name)
    _sync(target, name)
    _compare(target, 0, first, name)
    return True


def _same(image: BinaryIO, target: Target, size: int, name: str, progress: Progress) -> bool:
    """Whether all is there already; ends at the first difference."""
    for start, data in _chunks(image, 0):
        if _get(target, start, len(data), name) != data:
            return False
        progress("comparing", start + len(data), size)
    return True


def _chunks(image: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    image.seek(start)
    while data := image.read(CHUNK):
        yield start, data
        start += len(data)


def _put(target: Target, start: int, data: bytes, name: str) -> None:
    view = memoryview(data)
    while view:
        try:
            done = target.write(start, bytes(view))
        except OSError as error:
            raise StoreError(f"{name}: cannot be written at byte {start:,}: {error.strerror}; {AGAIN}") from None
        if done <= 0:
            raise StoreError(f"{name}: takes no more at byte {start:,}; {AGAIN}")
        start, view = start + done, view[done:]


def _sync(target: Target, name: str) -> None:
    try:
        target.sync()
    except OSError as error:
        raise StoreError(f"{name}: does not keep what is written: {error.strerror}; {AGAIN}") from None


def _compare(target: Target, start: int, data: bytes, name: str) -> None:
    found = _get(target, start, len(data), name)
    if found != data:
        pairs = zip(data, found, strict=False)
        offset = next((place for place, (old, new) in enumerate(pairs) if old != new), min(len(found), len(data)))
        raise StoreError(f"{name}: reads back other than it was written at byte {start + offset:,}; {AGAIN}")


def _get(target: Target, start: int, size: int, name: str) -> bytes:
    try:
        return target.read(start, size)
    except OSError as error:
        raise StoreError(f"{name}: cannot be read at byte {start:,}: {error.strerror}; try another card") from None
