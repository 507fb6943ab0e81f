"""The ways a card is made: settings go onto an image, or onto a boot partition that is there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedfleet.cloud.flash import disks, image, writing
from fedfleet.cloud.flash.apply import Outcome, apply
from fedfleet.cloud.flash.boot import Boot, Fat, Folder
from fedfleet.cloud.flash.content import Wanted, compose, require_ours
from fedfleet.cloud.flash.disks import Disk
from fedfleet.cloud.flash.image import Progress
from fedfleet.cloud.flash.partitions import layout
from fedfleet.cloud.flash.system import System, inspect
from fedfleet.cloud.flash.target import Device
from fedfleet.wire.errors import SettingsError


@dataclass(frozen=True)
class Report:
    """What was found and what was done; `fresh`: whether anything is other than it was before."""

    place: str
    system: System
    outcome: Outcome
    fresh: bool


def onto_image(source: Path, out: Path, wanted: Wanted, progress: Progress) -> Report:
    """Make `out` a copy of the image `source` with all that is wanted on it, whole or not at all."""
    if out.exists() and not out.is_file():
        raise SettingsError(f"{out}: not a file; --out names the image to make, --write a card to write")
    if not image.packed(source):  # which spares the copy of an image that will not do
        with _opened(source, os.O_RDONLY) as file:
            _fat(file, str(source), wanted)
    with image.copied(source, out, progress) as copy:
        found = customise(copy, wanted, str(source))
        return Report(str(out), found.system, found.outcome, image.keep(copy, out))


def onto_card(source: Path, disk: Disk, out: Path | None, wanted: Wanted, progress: Progress) -> Report:
    """Write the image with all that is wanted on it to a disk, and read it back; keep it as `out` where that is named.

    Nothing is written to the disk before the image is whole, fits it, and fits the bundle.
    """
    disks.require_room(disk, image.size(source))
    with image.copied(source, out or source.with_name(f"{source.name}.card"), progress) as copy:
        found = customise(copy, wanted, str(source))
        disks.require_room(disk, copy.stat().st_size)
        target = Device(disk.path)
        try:
            with copy.open("rb") as file:
                fresh = writing.write(file, target, str(disk.path), progress)
        finally:
            target.close()
        if out is not None:
            image.keep(copy, out)
        return Report(disk.title, found.system, found.outcome, fresh)


def onto_boot(place: Path, wanted: Wanted) -> Report:
    """Write all that is wanted onto a boot partition: a folder where it is mounted, a device, or an image."""
    if not place.is_dir():
        return customise(place, wanted, str(place))
    boot = Folder(place)
    return _applied(boot, inspect(boot, str(place)), wanted, str(place))


def customise(place: Path, wanted: Wanted, name: str) -> Report:
    """Write all that is wanted into the image or device `place` itself; errors call it `name`."""
    with _opened(place, os.O_RDWR) as file:
        boot, system = _fat(file, name, wanted)
        return _applied(boot, system, wanted, name)


def _fat(file: int, name: str, wanted: Wanted) -> tuple[Fat, System]:
    """The boot partition, and the system that the bundle fits."""
    found = layout(file, name)
    boot = Fat(file, found.boot, name)
    system = inspect(boot, name, file, found.root)
    wanted.bundle.require_fit(system)
    return boot, system


def _applied(boot: Boot, system: System, wanted: Wanted, name: str) -> Report:
    wanted.bundle.require_fit(system)
    require_ours(system, boot, name)
    planned = compose(wanted, system, boot.read("cmdline.txt") or b"")
    outcome = apply(boot, planned, name)
    return Report(name, system, outcome, outcome.changed)


@contextmanager
def _opened(place: Path, flags: int) -> Iterator[int]:
    """An image or device, open; a device that is in use is not opened for writing."""
    try:
        exclusive = os.O_EXCL if flags != os.O_RDONLY and stat.S_ISBLK(place.stat().st_mode) else 0
        file = os.open(place, flags | exclusive | os.O_CLOEXEC)
    except OSError as error:
        remedy = (
            "unmount it, or name the folder" if error.errno == errno.EBUSY else "check the path, and who may use it"
        )
        raise SettingsError(f"{place}: cannot be opened: {error.strerror}; {remedy}") from None
    try:
        yield file
    finally:
        os.close(file)
