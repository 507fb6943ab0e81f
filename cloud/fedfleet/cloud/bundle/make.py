"""The bundle: one folder with all that a board needs to become a device, made whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from fedfleet.cloud.bundle import agent, lock, parts, wheels
from fedfleet.cloud.bundle.boards import Board
from fedfleet.wire import files
from fedfleet.wire.bundle import FILE, Bundle, Wheel
from fedfleet.wire.errors import SettingsError, StoreError


def make(board: Board, out: Path, folder: Path | None = None, version: str = "") -> Bundle:
    """Make the bundle of `board` in `out`, which a bundle that is there makes way for.

    Others' wheels come from `folder`, else from the cache or by pip. `version` stands for that which is installed.
    Raises SettingsError, StoreError.
    """
    _check_out(out)
    pinned = lock.read(parts.lock(board.lock), board)
    found = wheels.given(pinned, board, folder) if folder else wheels.downloaded(pinned, board, wheels.cache())
    version = version or parts.version()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
            made = Path(name) / "bundle"
            release = _fill(made, board, version, found)
            _swap(made, out, Path(name) / "old")
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}; free the disk or check it") from None
    return release


def _fill(made: Path, board: Board, version: str, found: list[Path]) -> Bundle:
    (made / "wheels").mkdir(parents=True)
    made.chmod(0o755)
    files.write(made / "wheels" / agent.file_name(version), agent.wheel(version))
    for path in found:
        shutil.copyfile(path, made / "wheels" / path.name)
    for name, mode in parts.SCRIPTS.items():
        shutil.copyfile(parts.script(name), made / name)
        (made / name).chmod(mode)
    release = Bundle(version, board.python, board.machine, tuple(map(_wheel, sorted((made / "wheels").iterdir()))))
    files.write(made / FILE, release.text())
    return release


def _wheel(path: Path) -> Wheel:
    data = path.read_bytes()
    return Wheel(path.name, hashlib.sha256(data).hexdigest(), len(data))


def _swap(made: Path, out: Path, old: Path) -> None:
    if out.exists():
        out.rename(old)
    made.rename(out)
    files.sync(out.parent)


def _check_out(out: Path) -> None:
    """Refuse to remove what is not ours: anything but a bundle, and a bundle with a claim or settings in it."""
    if not out.exists():
        return
    if not out.is_dir():
        raise SettingsError(f"{out} is a file: name a folder with --out")
    names = {path.name for path in out.iterdir()}
    if names and FILE not in names:
        raise SettingsError(f"{out} is there and is no bundle: name another folder with --out")
    if foreign := names - {FILE, "wheels", *parts.SCRIPTS}:
        raise SettingsError(
            f"{out} holds {min(foreign)}, which would be lost: move it, or name another folder with --out"
        )
