"""The boards that a bundle can be made for, and which wheels fit each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from fedfleet.wire.errors import SettingsError

OLDEST_GLIBC = 17


@dataclass(frozen=True)
class Board:
    """An operating system on a board: its Python, the machine of its programs, the second number of its glibc.

    `lock` is the file of versions and hashes; what is in `apart` comes from the system's own packages.
    """

    name: str
    python: str
    machine: str
    glibc: int
    lock: str
    apart: tuple[str, ...] = ()

    @property
    def platforms(self) -> list[str]:
        """The platform tags that its pip would take, newest first."""
        return [
            *(f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, OLDEST_GLIBC - 1, -1)),
            f"manylinux2014_{self.machine}",
            f"linux_{self.machine}",
        ]

    @cached_property
    def tags(self) -> frozenset[Tag]:
        """All tags of wheels that run there."""
        major, minor = map(int, self.python.split("."))
        interpreter, platforms = f"cp{major}{minor}", self.platforms
        return frozenset(
            (
                *cpython_tags((major, minor), [interpreter], platforms),
                *compatible_tags((major, minor), interpreter, platforms),
            )
        )

    def misfit(self, wheel: str) -> str:
        """Why the wheel of that file name does not run there; empty where it does."""
        try:
            *_, tags = parse_wheel_filename(wheel)
        except InvalidWheelFilename:
            return f"{wheel} is not the name of a wheel"
        if tags & self.tags:
            return ""
        made_for = ", ".join(sorted(map(str, tags))[:2])
        return f"{wheel} is for {made_for}; {self.name} has Python {self.python} on {self.machine}"


# tflite-runtime where there is one: half of ai-edge-litert's memory and disk, and no crash under older emulators
BOARDS = {
    board.name: board
    for board in (
        Board("bookworm64", "3.11", "aarch64", 36, "lock-32.txt"),
        Board("bookworm32", "3.11", "armv7l", 36, "lock-32.txt", apart=("numpy",)),
        Board("trixie64", "3.13", "aarch64", 41, "lock.txt"),
    )
}


def board(name: str) -> Board:
    """Return the board that the owner named. Raises SettingsError."""
    if name == "trixie32":
        raise SettingsError(
            "trixie32: there is no LiteRT runtime for Python 3.13 on 32-bit ARM: flash 64-bit Trixie (trixie64) "
            "or 32-bit Bookworm where the board has no 64-bit processor (bookworm32)"
        )
    if name not in BOARDS:
        raise SettingsError(f"board {name} is none of {', '.join(BOARDS)}")
    return BOARDS[name]
