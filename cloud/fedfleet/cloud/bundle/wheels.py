"""Others' wheels for a board: from a folder, from the cache, or by pip, and in each case held to the lock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from fedfleet.cloud.bundle.boards import Board
from fedfleet.cloud.bundle.lock import Pinned
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError, StoreError


def cache() -> Path:
    """The folder that keeps downloaded wheels, one folder for each digest (XDG base directory specification)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "fedfleet" / "wheels"


def downloaded(pinned: Sequence[Pinned], board: Board, kept: Path) -> list[Path]:
    """Return a wheel for each of `pinned`, all in the cache `kept`; pip fetches what is not there yet.

    Raises SettingsError where pip does not get them, StoreError where the cache cannot be written.
    """
    found = {one: _kept(one, board, kept) for one in pinned}
    missing = [one for one, path in found.items() if path is None]
    if missing:
        found |= _fetched(missing, board, kept)
    return [path for path in found.values() if path is not None]


def given(pinned: Sequence[Pinned], board: Board, folder: Path) -> list[Path]:
    """Return a wheel for each of `pinned` from `folder`, where there is no network. Raises SettingsError."""
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such folder of wheels")
    return [_chosen(one, board, folder) for one in pinned]


def _chosen(one: Pinned, board: Board, folder: Path) -> Path:
    wheels = [path for path in sorted(folder.glob("*.whl")) if _named(path) == one.name]
    fitting = [path for path in wheels if not board.misfit(path.name)]
    for path in fitting:
        if _digest(path) in one.digests:
            return path
    if fitting:
        raise SettingsError(f"{fitting[0]} is not the file that the lock names for {one.name} {one.version}")
    if wheels:
        raise SettingsError(board.misfit(wheels[0].name))
    raise SettingsError(f"{folder} has no wheel of {one.name} {one.version} for {board.name}")


def _kept(one: Pinned, board: Board, kept: Path) -> Path | None:
    """The wheel of `one` in the cache; one whose bytes have rotted is as good as none."""
    for digest in sorted(one.digests):
        for path in (kept / digest).glob("*.whl"):
            if not board.misfit(path.name) and _digest(path) == digest:
                return path
    return None


def _fetched(missing: Sequence[Pinned], board: Board, kept: Path) -> dict[Pinned, Path | None]:
    """Download into a folder of its own first: the cache has a wheel whole or not at all."""
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept, prefix=".") as name:
            folder = Path(name)
            _pip(missing, board, folder)
            return {one: _settled(_chosen(one, board, folder), kept) for one in missing}
    except OSError as error:
        raise StoreError(f"{kept} cannot be written: {error.strerror}; free the disk or set XDG_CACHE_HOME") from None


def _settled(wheel: Path, kept: Path) -> Path:
    target = kept / files.digest(wheel)
    shutil.rmtree(target, ignore_errors=True)  # it was no good, or it would not have been fetched
    target.mkdir()
    files.settle(wheel, target / wheel.name)
    return target / wheel.name


def _pip(missing: Sequence[Pinned], board: Board, folder: Path) -> None:
    lock = folder / "lock.txt"
    lock.write_text("".join(one.line() + "\n" for one in missing), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", *_options(board), "--dest", str(folder), "-r", str(lock)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")] or ["pip failed"]
        raise SettingsError(
            f"the wheels of {board.name} cannot be fetched: {said[-1].removeprefix('ERROR: ')[:200]}; "
            "without a network give --wheels DIR"
        )


def _options(board: Board) -> Iterator[str]:
    yield from ("--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check", "--quiet")
    yield from ("--implementation", "cp", "--python-version", board.python)
    for platform in board.platforms:
        yield from ("--platform", platform)


def _named(path: Path) -> str:
    try:
        return parse_wheel_filename(path.name)[0]
    except InvalidWheelFilename:
        return canonicalize_name(path.name.partition("-")[0])


def _digest(path: Path) -> str:
    try:
        return files.digest(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
