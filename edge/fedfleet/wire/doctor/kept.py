"""A folder in which state is kept: is it there, whose is it, does it take what is written, and is there room."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fedfleet.wire.doctor.checkup import Cause, Finding, failed, fine

LOOKED = 2000  # files of the folder that are looked at
PROBE = ".doctor"
MIB = 2**20

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


def state(path: Path) -> Finding:
    """Whether state can be kept in the folder `path`, by whoever looks."""
    if not there(path):
        return _makeable(path)
    try:
        return _looked(path)
    except PermissionError as error:
        return failed(DENIED, f"{error.filename or path} is shut to {user(os.geteuid())}", owner="its owner")


def _looked(path: Path) -> Finding:
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


def there(path: Path) -> bool:
    """Whether there is something of that name, or might be behind what is shut to us."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def free(path: Path) -> float:
    """MiB that are free for us on the disk of `path`, or of where it would be made."""
    found = os.statvfs(nearest(path))
    return found.f_bavail * found.f_frsize / MIB


def nearest(path: Path) -> Path:
    """The folder `path`, or the nearest above it that is there."""
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())


def user(number: int) -> str:
    """The name of a user, or the number of one without."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _makeable(path: Path) -> Finding:
    above = nearest(path)
    if os.access(above, os.W_OK | os.X_OK) and not os.statvfs(above).f_flag & os.ST_RDONLY:
        return fine(f"{path} will be made at the first start")
    return failed(NO_FOLDER, f"{path} is missing", path=path, user=user(os.geteuid()))


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
