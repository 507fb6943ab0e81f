"""Images: unpacked into a copy beside the place where the result is to be, which gets its name when it is whole."""

from __future__ import annotations

import filecmp
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, BinaryIO

from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError, StoreError

CHUNK = 4 * 2**20
XZ = b"\xfd7zXZ\x00"
FOOTER, MAX_INDEX = 12, 2**20
OTHERS = {b"PK\x03\x04": "unzip", b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "unzstd", b"BZh": "bunzip2"}
ELSEWHERE = "free the disk, or name another place with --out"
Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


def size(source: Path) -> int:
    """Return an image's bytes, unpacked; less where its archive does not say all. Raises SettingsError.

    An xz archive ends in an index of its blocks (the .xz file format 1.2, 2.1.2 and 4): found from the end by the
    footer's field for it, two numbers of seven bits a byte for each block, the second the unpacked size.
    """
    if not packed(source):
        return source.stat().st_size
    with source.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - FOOTER))
        footer = file.read(FOOTER)
        length = (int.from_bytes(footer[4:8], "little") + 1) * 4
        if footer[10:] != b"YZ" or not 8 <= length <= min(end - FOOTER, MAX_INDEX):
            return 0
        file.seek(end - FOOTER - length)
        numbers = _numbers(file.read(length)[1:-4])
    blocks = next(numbers, 0)
    return sum(unpacked for _, unpacked in islice(zip(numbers, numbers), blocks))


def _numbers(data: bytes) -> Iterator[int]:
    """Numbers of seven bits a byte, the lowest first, all but a number's last byte with the eighth bit set."""
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


@contextmanager
def copied(source: Path, out: Path, progress: Progress) -> Iterator[Path]:
    """Give a copy of the image beside `out`, unpacked where it is packed; it is gone afterwards. Raises its errors."""
    if out.exists() and source.samefile(out):
        raise SettingsError(f"{out}: this is the image itself, which stays as it is; choose another --out")
    _require_room(source, out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        _unpack(source, temporary, progress)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def packed(source: Path) -> bool:
    """Return whether the image is packed, by its first bytes. Raises SettingsError where it cannot be read."""
    try:
        with source.open("rb") as file:
            magic = file.read(6)
    except OSError as error:
        raise SettingsError(f"{source}: cannot be read: {error.strerror}; check --image") from None
    if other := next((tool for head, tool in OTHERS.items() if magic.startswith(head)), None):
        raise SettingsError(f"{source}: packed in another way than xz; unpack it first with {other}")
    return magic == XZ


def keep(temporary: Path, out: Path) -> bool:
    """Give the copy its name, unless `out` has the same bytes already; return whether it was given."""
    if out.is_file() and filecmp.cmp(temporary, out, shallow=False):
        return False
    files.settle(temporary, out)
    return True


def _require_room(source: Path, out: Path) -> None:
    try:
        need, free = size(source), shutil.disk_usage(out.absolute().parent).free
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}; check --image and --out") from None
    if need > free:
        raise StoreError(
            f"{out} cannot be written: {need:,} bytes and more are needed, {free:,} are free; free the disk"
        )


def _unpack(source: Path, target: Path, progress: Progress) -> None:
    what = "unpacking" if packed(source) else "copying"
    try:
        with source.open("rb") as raw, open(target, "xb", opener=_private) as out:
            size = max(1, os.fstat(raw.fileno()).st_size)
            with lzma.open(raw) if what == "unpacking" else raw as plain:
                _pour(plain, out, lambda: progress(what, raw.tell(), size))
    except lzma.LZMAError:
        raise SettingsError(f"{source}: damaged, it does not unpack; download it again") from None
    except EOFError:
        raise SettingsError(f"{source}: cut off, its end is missing; download it again") from None
    except OSError as error:
        raise StoreError(f"{target.parent}: {source.name} cannot be copied: {error.strerror}; {ELSEWHERE}") from None


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner reads: claim, password hash and Wi-Fi key will be in it."""
    return os.open(path, flags, 0o600)


def _pour(plain: IO[bytes], out: BinaryIO, tick: Callable[[], None]) -> None:
    """Copy chunk by chunk; zeros become holes, and the length is right even where the last are zeros."""
    while chunk := plain.read(CHUNK):
        if chunk.count(0) == len(chunk):
            out.seek(len(chunk), os.SEEK_CUR)
        else:
            out.write(chunk)
        tick()
    out.truncate(out.tell())
