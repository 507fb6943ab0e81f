"""What `fedfleet bundle` made for one kind of board, read and checked whole before any of it goes onto a card."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from fedfleet.cloud.flash.system import System
from fedfleet.wire.bundle import FILE, Bundle, Wheel, parse
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import Mismatch

MAX_FILE = 128 * 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
OWN = ("agent.toml", "claim.pem")  # which come from the options
REMAKE = "make the bundle again with `fedfleet bundle`"
NO_RUNTIME = (
    "{title}, Python {python}: there is no LiteRT runtime for it, so no agent can train on it; "
    "take the 64-bit image, or 32-bit Raspberry Pi OS Bookworm for a board without 64 bits"
)


@dataclass(frozen=True)
class Loaded:
    """A bundle and the files of its folder by their names, `wheels/...` among them."""

    release: Bundle
    files: dict[str, bytes]

    def require_fit(self, system: System) -> None:
        """Raise SettingsError unless this is for the machine and the Python of `system`."""
        if (system.machine, system.python) == ("armv7l", "3.13"):
            raise SettingsError(NO_RUNTIME.format(title=system.title, python=system.python))
        release = self.release
        if (release.machine, release.python) != (system.machine, system.python):
            raise SettingsError(
                f"the bundle is for {release.machine} with Python {release.python}, the image is {system.title} "
                f"({system.machine}, Python {system.python}; {system.how}); make a bundle for it with `fedfleet bundle`"
            )


def load(folder: Path) -> Loaded:
    """Return the bundle in `folder`; raises SettingsError where a file is missing, damaged or too large."""
    if not (folder / FILE).is_file():
        raise SettingsError(f"{folder}: no release.json in it, so it is no bundle; {REMAKE}")
    try:
        release = parse(_read(folder / FILE))
    except Mismatch as error:
        raise SettingsError(f"{folder / FILE}: {error}; {REMAKE}") from None
    top = sorted(file for file in folder.iterdir() if file.is_file() and file.name not in OWN)
    wheels = {f"wheels/{wheel.name}": _wheel(folder / "wheels" / wheel.name, wheel) for wheel in release.wheels}
    return Loaded(release, wheels | {file.name: _read(file) for file in top if NAME.fullmatch(file.name)})


def _wheel(path: Path, wheel: Wheel) -> bytes:
    data = _read(path)
    if len(data) != wheel.size or hashlib.sha256(data).hexdigest() != wheel.sha256:
        raise SettingsError(f"{path}: not the file that release.json names; {REMAKE}")
    return data


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE:
            raise SettingsError(f"{path}: larger than {MAX_FILE} bytes; {REMAKE}")
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}; {REMAKE}") from None
