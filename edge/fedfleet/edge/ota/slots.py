"""The versions of the agent on a board, and which one starts: every step is one rename, and a cut behind any is safe.

slots/<version>/      site/ (wheels, unpacked), release.json, serial.json
slots/current         a link to the version that `launch` starts
slots/previous        a link to the one before, that `launch` goes back to
slots/trial.json      while `current` is on trial: {"slot": ..., "starts": n, "serial": n, "got": how far it came}
slots/failed.json     the same of the last version that was gone back from
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fedfleet.edge.ota import wheels
from fedfleet.wire import files
from fedfleet.wire.bundle import FILE, Bundle, Wheel, parse
from fedfleet.wire.errors import ReleaseError, StoreError
from fedfleet.wire.messages import VERSION
from fedfleet.wire.record import Mismatch, build, plain

VARIABLE = "FEDFLEET_SLOT"  # that `launch` sets to the slot it starts
STARTS = 3
MAX_NOTE = 4096
PLAIN = str.maketrans({'"': "'", "\\": "/"})  # `launch` reads and writes these files too, with sed


@dataclass(frozen=True)
class Trial:
    """A version on trial: how often it was started, and how far it has got in words."""

    slot: str
    starts: int = 0
    serial: int = 0
    got: str = ""


class Slots:
    """The folder of slots, as the agent sees it that runs from the slot `own`."""

    def __init__(self, folder: Path, own: str) -> None:
        self.folder = folder
        self.own = own

    @property
    def trial(self) -> Trial | None:
        """The trial that `own` is on."""
        found = self._note("trial.json")
        return found if found is not None and found.slot == self.own else None

    @property
    def failed(self) -> Trial | None:
        """The last version that was gone back from."""
        return self._note("failed.json")

    @property
    def serial(self) -> int:
        """What `own` was numbered when it was installed over the air; 0 for one that came another way."""
        return self._serial(self.own)

    def got(self, how_far: str) -> None:
        """Note how far the trial has come. Raises StoreError."""
        if (trial := self.trial) is not None and trial.got != (text := how_far.translate(PLAIN)[:200]):
            self._write(replace(trial, got=text))

    def uncount(self) -> None:
        """Take the count of this start back, for it was ended by the board's owner. Raises StoreError."""
        if (trial := self.trial) is not None:
            self._write(replace(trial, starts=max(trial.starts - 1, 0)))

    def keep(self) -> None:
        """End the trial: the version is good. Raises StoreError."""
        files.remove(self.folder / "trial.json")
        _sync(self.folder)

    def release(self, version: str) -> bytes:
        """The `release.json` of a slot; empty where there is none."""
        try:
            return (self.folder / version / FILE).read_bytes()
        except OSError:
            return b""

    def has(self, wheel: Wheel) -> bool:
        """Whether the wheel need not be fetched, since the running slot has the very same."""
        return self._listed(wheel) and wheels.has(wheel.name, self.folder / self.own / "site")

    def add(self, found: Bundle, release: bytes, blobs: Path) -> Iterator[None]:
        """Make the slot of a release, from wheels in `blobs` and those there are; a step for each wheel at least.

        Nothing of it has its name before all of it is on the disk. Raises ReleaseError, StoreError.
        """
        final, temporary = self.folder / found.version, self.folder / f".{found.version}.tmp"
        if self.release(found.version) == release:
            return
        if found.version in (self.own, self.link("previous")):
            raise ReleaseError("another release of this version is installed; give each a version of its own")
        _remove(temporary)
        _remove(final)
        try:
            (temporary / "site").mkdir(parents=True)
            for wheel in found.wheels:
                old = self.folder / self.own / "site"
                if not (self._listed(wheel) and wheels.take_over(wheel.name, old, temporary / "site")):
                    if files.digest(blobs / wheel.sha256) != wheel.sha256:
                        raise ReleaseError(f"{wheel.name} has rotted on the disk")
                    yield from wheels.unpack(blobs / wheel.sha256, temporary / "site")
                yield
            (temporary / FILE).write_bytes(release)
            os.sync()
            temporary.replace(final)
        except OSError as error:
            raise StoreError(f"{temporary} cannot be written: {error.strerror}; free the disk or check it") from None
        _sync(self.folder)

    def switch(self, version: str, serial: int) -> None:
        """Have `launch` start `version` next, on trial. Raises StoreError."""
        files.write(self.folder / version / "serial.json", json.dumps({"serial": serial}).encode())
        self._link("previous", self.own)
        self._write(Trial(version, serial=serial))  # of no effect before the link is made
        self._link("current", version)

    def link(self, name: str) -> str:
        """The version that a link names; empty where there is none."""
        with suppress(OSError):
            return (self.folder / name).readlink().name
        return ""

    def tidy(self) -> None:
        """Remove all slots but the running and the previous one, and what was half-made. Raises StoreError."""
        kept = {self.own, self.link("previous"), self.link("current")}
        for path in self.folder.iterdir():
            ours = VERSION.fullmatch(path.name) or (path.name.startswith(".") and path.suffix == ".tmp")
            if ours and path.is_dir() and not path.is_symlink() and path.name not in kept:
                _remove(path)

    def _listed(self, wheel: Wheel) -> bool:
        """Whether the running slot was made of this wheel; one of the same name may have another content."""
        try:
            return wheel in parse(self.release(self.own)).wheels
        except Mismatch:
            return False

    def _link(self, name: str, version: str) -> None:
        temporary = self.folder / f".{name}.tmp"
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(version)
            temporary.replace(self.folder / name)
        except OSError as error:
            raise StoreError(f"{self.folder / name} cannot be written: {error.strerror}") from None
        _sync(self.folder)

    def _write(self, trial: Trial) -> None:
        files.write(self.folder / "trial.json", json.dumps(plain(trial)).encode() + b"\n")

    def _note(self, name: str) -> Trial | None:
        path = self.folder / name
        try:
            return build(Trial, json.loads(path.read_bytes()[:MAX_NOTE]), strict=False)
        except (OSError, ValueError, Mismatch):
            return None

    def _serial(self, version: str) -> int:
        try:
            found = json.loads((self.folder / version / "serial.json").read_bytes()[:MAX_NOTE])
            return int(found["serial"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0


def started(environment: Mapping[str, str]) -> Slots | None:
    """Return the slots if `launch` has started this agent from one of them."""
    path = Path(environment.get(VARIABLE, ""))
    return Slots(path.parent, path.name) if path.is_absolute() and VERSION.fullmatch(path.name) else None


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be removed: {error.strerror}") from None


def _sync(folder: Path) -> None:
    try:
        files.sync(folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; free the disk or check it") from None
