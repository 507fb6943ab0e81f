"""What install.sh asks of a bundle and its board: `check` and `unpack`; the standard library alone.

It also runs where the board's Python is too old for anything else here, to say so.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any, NoReturn

MACHINES = {(2, 183): "aarch64", (1, 40): "armv7l", (2, 62): "x86_64"}  # ELF's class and e_machine
SCRIPTS = ("install.sh", "launch", "fedfleet-agent.service")
STATE = "/var/lib/fedfleet"
ROOM = 32 * 2**20  # what must stay free beside the slot


def refuse(reason: str) -> NoReturn:
    """End with the one line `reason`."""
    sys.exit(f"fedfleet: {reason}")


def check(here: Path, root: Path, settings: str, claim: str) -> None:
    """Check all that can be before anything is done; print slot, new or there, newest or older, wheel's or debian's."""
    text = (here / "release.json").read_bytes()
    release = json.loads(text)
    _check_board(release, root)
    for name in SCRIPTS:
        if not (here / name).is_file():
            refuse(f"{here / name} is missing: copy the whole bundle")
    wheels = [_wheel(here, wheel) for wheel in release["wheels"]]
    if settings:
        _check_settings(Path(settings), root, bool(claim))
    slots = root / STATE[1:] / "slots"
    slot = _slot(slots, release["version"], text)
    there = (slots / slot / "release.json").is_file()
    _check_room(root, [] if there else wheels)
    current = slots / "current" / "release.json"
    older = current.is_file() and _order(json.loads(current.read_bytes())["version"]) > _order(release["version"])
    numpy = "wheel" if any(wheel.name.startswith("numpy-") for wheel in wheels) else "debian"
    print(slot, "there" if there else "new", "older" if older else "newest", numpy)


def unpack(here: Path, site: Path) -> None:
    """Unpack the bundle's wheels side by side into the folder `site`."""
    for wheel in json.loads((here / "release.json").read_bytes())["wheels"]:
        with zipfile.ZipFile(here / "wheels" / wheel["name"]) as packed:
            packed.extractall(site)


def _check_board(release: dict[str, Any], root: Path) -> None:
    python, machine = _board(root)
    if sys.version_info < (3, 11) and root == Path("/"):
        refuse(f"this board has Python {python}, the agent needs 3.11: Raspberry Pi OS Bookworm or newer")
    if (python, machine) != (release["python"], release["machine"]):
        wanted = f"Python {release['python']} on {release['machine']}"
        refuse(
            f"this bundle is for {wanted}, the board has {python} on {machine}: take another fedfleet bundle --board"
        )
    if root == Path("/") and os.uname().machine == "armv6l":
        refuse(
            "this board's processor is an ARMv6, for which there is no LiteRT runtime: a Pi 2, Zero 2 W or newer has"
        )


def _board(root: Path) -> tuple[str, str]:
    """Python's version and what its program is built for; not uname's word: a 64-bit kernel may run a 32-bit system."""
    link = root / "usr/bin/python3"
    try:
        name = link.readlink().name
        with (link.parent / name).open("rb") as file:
            head = file.read(20)
    except OSError:
        refuse(f"{link} is not there: apt-get install python3")
    known = head[:4] == b"\x7fELF" and MACHINES.get((head[4], int.from_bytes(head[18:20], "little")))
    return name.rpartition("python")[2], known or "an unknown machine"


def _wheel(here: Path, wheel: dict[str, Any]) -> Path:
    path = here / "wheels" / str(wheel["name"])
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        refuse(f"{path}: {error.strerror}: copy the whole bundle")
    if found != wheel["sha256"]:
        refuse(f"{path} is damaged, its bytes are not those of release.json: copy the bundle again")
    return path


def _check_settings(file: Path, root: Path, claimed: bool) -> None:
    import tomllib

    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        refuse(f"{file}: {error}")
    if not str(table.get("state", "")).startswith(STATE + "/"):
        refuse(f'{file}: the service may only write below {STATE}: set state = "{STATE}/state"')
    if claimed and table.get("enrol", {}).get("claim") != f"{STATE}/claim.pem":
        refuse(f'{file}: the claim is moved to {STATE}: set claim = "{STATE}/claim.pem" in [enrol]')
    if (claimed or "release" in table) and not (root / "usr/bin/openssl").exists():
        refuse(f"{root / 'usr/bin/openssl'} is not there: keys and releases need it: apt-get install openssl")


def _slot(slots: Path, version: str, text: bytes) -> str:
    """The slot's name: its version, and a digest where that version was once built of other bytes."""
    taken = slots / version / "release.json"
    return (
        f"{version}-{hashlib.sha256(text).hexdigest()[:8]}"
        if taken.is_file() and taken.read_bytes() != text
        else version
    )


def _check_room(root: Path, wheels: list[Path]) -> None:
    place = root / STATE[1:]
    while not place.exists():
        place = place.parent
    needed = ROOM
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            needed += sum(info.file_size for info in packed.infolist())
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        refuse(f"{place} has {free >> 20} MiB free and {needed >> 20} MiB are needed: make room")


def _order(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]


def main() -> None:
    """Do what install.sh asks for."""
    command, *arguments = sys.argv[1:]
    if command == "check":
        check(Path(arguments[0]), Path(arguments[1]), *arguments[2:])
    else:
        unpack(*map(Path, arguments))


if __name__ == "__main__":
    main()
