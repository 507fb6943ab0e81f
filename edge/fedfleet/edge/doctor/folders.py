"""The state folder: is it there, whose is it, does it take what is written, and are there examples in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fedfleet.edge import board
from fedfleet.edge.doctor.device import Device, user
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine

LEAST = 64.0  # MiB on the disk: two segments of examples, a model and an update of a small board
LOOKED = 2000  # files of the folder that are looked at
PROBE = ".doctor"
SEGMENTS = "[0-9]*.segment"  # of data.py, which would load numpy for it

NO_FOLDER = Cause(
    "state-missing", "the state folder is missing and cannot be made", "mkdir {path}, for {user} to write"
)
NO_DIRECTORY = Cause("state-no-folder", "something that is no folder has its name", "move {path} away, or change state")
READ_ONLY = Cause(
    "state-read-only", "its file system is mounted read-only", "mount -o remount,rw; if it comes back, check the card"
)
DENIED = Cause(
    "state-denied", "this user may not write the state folder", "run as its owner: sudo -u {owner}; or chown it"
)
FOREIGN = Cause(
    "state-owner", "files in it are of another user than the folder, as after a command run by root",
    "chown -R {owner} {path}",
)  # fmt: skip
NO_ROOM = Cause("state-full", "the disk takes nothing any more", "free room on the disk of {path}")
BAD_DISK = Cause("state-broken", "the disk fails when it is written", "check the card (dmesg), replace it")
STATE = (NO_FOLDER, NO_DIRECTORY, READ_ONLY, DENIED, FOREIGN, NO_ROOM, BAD_DISK)

LITTLE = Cause("disk-full", "less than 64 MiB are free", "free room on the disk of {path}")
GUARDED = Cause(
    "disk-guard", "less is free than min_disk_mib asks for, so nothing is trained", "free room, or lower it"
)
DISK = (LITTLE, GUARDED)

NO_EXAMPLES = Cause(
    "examples-none", "there is nothing to train on", "fedfleet-agent --settings {file} import data.npz, or a [source]"
)
UNCOLLECTED = Cause(
    "examples-uncollected",
    "its sources have brought nothing yet",
    "start the agent; its log says what a source waits for",
)
EXAMPLES = (NO_EXAMPLES, UNCOLLECTED)


def state(device: Device) -> Finding:
    """Whether the agent can keep its state."""
    path = device.state
    if not path.exists():
        return _makeable(device)
    if not path.is_dir():
        return failed(NO_DIRECTORY, f"{path} is no folder", path=path)
    owner = user(path.stat().st_uid)
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return failed(READ_ONLY, f"{path} lies on a read-only file system")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return failed(DENIED, f"{path} is of {owner}, mode {path.stat().st_mode & 0o777:o}", owner=owner)
    if strangers := [found for found in islice(_files(path), LOOKED) if found.lstat().st_uid != path.stat().st_uid]:
        seen = f"{strangers[0]} is of {user(strangers[0].lstat().st_uid)}, the folder of {owner}"
        return failed(FOREIGN, seen, owner=owner, path=path)
    return _written(path) or fine(f"{path}, of {owner}")


def disk(device: Device) -> Finding:
    """Whether there is room."""
    there = next(path for path in (device.state, *device.state.parents) if path.is_dir())
    free = board.disk(there) or 0.0
    if free < LEAST:
        return failed(LITTLE, f"{free:.0f} MiB are free", path=there)
    if free < device.settings.guards.min_disk_mib:
        return failed(
            GUARDED, f"{free:.0f} MiB are free, guards.min_disk_mib is {device.settings.guards.min_disk_mib:g}"
        )
    return fine(f"{free:.0f} MiB are free")


def examples(device: Device) -> Finding:
    """Whether there is anything to train on."""
    folder = device.state / "examples"
    sizes = [path.stat().st_size for path in folder.glob(SEGMENTS)] if folder.is_dir() else []
    if sizes:
        return fine(f"{len(sizes)} segments of examples, {sum(sizes) / 2**20:.1f} MiB")
    cause = UNCOLLECTED if device.settings.collects else NO_EXAMPLES
    return failed(cause, f"no examples in {folder}", file=device.file)


def running(device: Device) -> Finding:
    """Whether an agent runs: no fault if not, but then its unit should say so."""
    return fine(f"runs, process {device.agent}") if device.agent else beside("no agent runs on this state")


def _makeable(device: Device) -> Finding:
    parent = next(path for path in device.state.parents if path.exists())
    if os.access(parent, os.W_OK | os.X_OK) and not os.statvfs(parent).f_flag & os.ST_RDONLY:
        return fine(f"{device.state} will be made at the first start")
    return failed(NO_FOLDER, f"{device.state} is missing", path=device.state, user=device.owner.user)


def _written(path: Path) -> Finding | None:
    """Try it: permission is not room, and no proof of a good card."""
    probe = path / PROBE
    try:
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        probe.unlink(missing_ok=True)
        return failed(NO_ROOM if full else BAD_DISK, f"{probe}: {error.strerror}", path=path)
    return None


def _files(path: Path) -> Iterator[Path]:
    for each in path.iterdir():
        yield each
        if each.is_dir() and not each.is_symlink():
            yield from _files(each)
