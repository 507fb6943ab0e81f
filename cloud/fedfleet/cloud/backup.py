"""An aggregator's folder in one file, taken while it runs, and back.

The file is a tar archive with one line behind it, the sha256 of all that comes before: whatever was cut off or flipped
shows before anything is made of it. First the database is copied as it is at one moment, then what it names; where a
round ended in between and took a file with it, all is taken anew.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
import tarfile
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from fedfleet.cloud import schema
from fedfleet.wire import files
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Task
from fedfleet.wire.record import build

OLDEST = 2  # of schemas that can be backed up
TRIES = 20
PIECE = 2**20
SEAL = re.compile(rb"fedfleet backup 1 ([0-9a-f]{64})\n")
SEAL_SIZE = len(b"fedfleet backup 1 \n") + 64
MEMBER = re.compile(r"journal\.sqlite|blobs/[0-9a-f]{64}|updates/\d+|programs/[0-9a-f]{64}/[a-z]+\.(tflite|bin|json)")


class Sealed:
    """A file that is only appended to, and digested on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Append `data`."""
        self._digest.update(data)
        return self._file.write(data)

    def seal(self) -> None:
        """Append the line that says what came before."""
        self._file.write(b"fedfleet backup 1 %s\n" % self._digest.hexdigest().encode())


def backup(state: Path, path: Path) -> int:
    """Write the aggregator's folder `state` to the file `path`, whole or not at all; returns its size in bytes.

    Raises StoreError, also where the journal names what is not there.
    """
    try:
        with TemporaryDirectory(prefix=".fedfleet-backup-", dir=path.absolute().parent) as folder:
            snapshot, whole = Path(folder) / schema.DATABASE, Path(folder) / "backup"
            for _ in range(TRIES):
                with schema.beside(state, oldest=OLDEST) as database:
                    schema.copy(database, snapshot)
                missing = _pack(state, snapshot, whole)
                if not missing:
                    files.settle(whole, path)
                    return path.stat().st_size
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}; choose another file") from None
    raise StoreError(f"{missing} is missing; nothing was backed up; restore an older backup")


def restore(path: Path, state: Path) -> None:
    """Make the folder `state` as it was when `path` was written; raises StoreError, and then has made nothing."""
    if state.exists() and (not state.is_dir() or any(state.iterdir())):
        raise StoreError(f"{state} is there and not empty; restore into a new folder")
    new = state.absolute().with_name(f".{state.absolute().name}.restored")
    try:
        with path.open("rb") as file:
            _check(file, path)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            _unpack(file, new)
        _open(new)
        new.replace(state)
        files.sync(state.absolute().parent)
    except OSError as error:
        raise StoreError(
            f"{error.filename or path}: {error.strerror or error}; name a backup and a new folder"
        ) from None
    except (tarfile.TarError, sqlite3.Error) as error:
        raise StoreError(f"{path} is no backup of an aggregator ({error}); take another one") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _pack(state: Path, snapshot: Path, whole: Path) -> Path | None:
    """Write the archive; return what is missing, if a file that `snapshot` names has gone."""
    with ExitStack() as stack:
        handles = []
        for name in _names(state, snapshot):
            try:
                handle = stack.enter_context((state / name).open("rb"))
            except FileNotFoundError as error:
                return Path(error.filename)
            if name.startswith("blobs/") and hashlib.file_digest(handle, "sha256").hexdigest() != name[6:]:
                raise StoreError(f"{state / name} is damaged; nothing was backed up; restore an older backup")
            handle.seek(0)
            handles.append((name, handle))
        file = stack.enter_context(whole.open("wb"))
        sealed = Sealed(file)
        with tarfile.open(fileobj=sealed, mode="w|") as archive:  # type: ignore[call-overload]
            archive.add(snapshot, schema.DATABASE)
            for name, handle in handles:
                archive.addfile(archive.gettarinfo(arcname=name, fileobj=handle), handle)
        sealed.seal()
    return None


def _names(state: Path, snapshot: Path) -> list[str]:
    """What belongs to the database `snapshot`, and whatever blobs and programs there are beside.

    Differences that were counted after the snapshot was taken may come along: the next count writes over them.
    """
    with closing(sqlite3.connect(snapshot)) as database:
        named = {digest for row in database.execute("SELECT weights, moments FROM rounds") for digest in row if digest}
        for (text,) in database.execute("SELECT task FROM rounds WHERE state = 'open'"):
            task = build(Task, json.loads(text), strict=False)
            named |= {blob.digest for blob in (task.program, *task.moving)}
        counted = "SELECT DISTINCT round FROM updates JOIN rounds USING (round) WHERE state = 'open'"
        deltas = [f"updates/{number}" for (number,) in database.execute(counted)]
    there = {path.relative_to(state).as_posix() for path in [*state.glob("blobs/*"), *state.glob("programs/*/*")]}
    return [*deltas, *sorted({name for name in there if MEMBER.fullmatch(name)} | {f"blobs/{each}" for each in named})]


def _check(file: BinaryIO, path: Path) -> None:
    """Raise StoreError unless the file is whole; leave it at its beginning."""
    size = file.seek(0, 2) - SEAL_SIZE
    seal = None
    if size > 0:
        file.seek(size)
        seal = SEAL.fullmatch(file.read())
    file.seek(0)
    digest, left = hashlib.sha256(), max(size, 0)
    while left and (data := file.read(min(PIECE, left))):
        digest.update(data)
        left -= len(data)
    if seal is None or digest.hexdigest().encode() != seal[1]:
        raise StoreError(f"{path} is no backup, or cut off or damaged; nothing was restored, take another one")
    file.seek(0)


def _unpack(file: BinaryIO, folder: Path) -> None:
    (folder / "blobs").mkdir()
    (folder / "updates").mkdir()
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            source = archive.extractfile(info) if MEMBER.fullmatch(info.name) else None
            if source is None:
                raise tarfile.ReadError(f"{info.name[:80]!r} does not belong there")
            path = folder / info.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.with_name(".tmp").open("wb") as target:
                shutil.copyfileobj(source, target, PIECE)
            files.settle(path.with_name(".tmp"), path)


def _open(folder: Path) -> None:
    """Raise StoreError or sqlite3.Error unless the database can be used."""
    with schema.beside(folder, oldest=OLDEST) as database:
        ((found,),) = database.execute("PRAGMA quick_check").fetchall()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    for name in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            (folder / f"{schema.DATABASE}{name}").unlink()
