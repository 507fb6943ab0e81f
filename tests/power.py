"""A disk that loses its power: what was not synced by then may be there, may not, or may be torn.

The calls that make things durable or move names are counted; at the one that is chosen, the folder is copied as a disk
may show it after a cut, and `PowerCut` ends whatever was running. Nothing that happens afterwards is in the copy. What is
assumed of a disk is what POSIX promises: a file's bytes last once the file was synced, a name once its folder was.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CALLS = ("fsync", "replace", "unlink", "truncate", "remove", "rename")


class PowerCut(BaseException):
    """The power went."""


def _path(what: Any) -> Path:
    """The file that a call is about, by its path or its handle."""
    return Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else Path(what)


class Disk:
    """The folder `root` from now on; what is in it already counts as synced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.points: list[str] = []
        self._names: dict[Path, dict[str, int]] = {}
        self._bytes: dict[int, bytes] = {}
        self._held: list[int] = []
        for path in [root, *root.rglob("*")]:
            self._sync(os.open(path, os.O_RDONLY))

    @contextmanager
    def cut(self, at: int, image: Path, seed: int) -> Iterator[None]:
        """While the block lasts, cut the power at the point number `at` and leave `image`; 0 means never."""
        self.points = []
        real = {name: getattr(os, name) for name in CALLS}

        def counted(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                path = _path(arguments[0])
                if not path.is_relative_to(self.root):  # another machine's
                    return real[name](*arguments, **options)
                self._point(f"before {name} {path.name}", at, image, seed)
                found = real[name](*arguments, **options)
                if name == "fsync":
                    self._sync(os.dup(arguments[0]))
                self._point(f"after {name} {path.name}", at, image, seed)
                return found

            return call

        try:
            for name in CALLS:
                setattr(os, name, counted(name))
            yield
        finally:
            for name in CALLS:
                setattr(os, name, real[name])

    def _point(self, label: str, at: int, image: Path, seed: int) -> None:
        self.points.append(label)
        if len(self.points) == at:
            self._leave(image, random.Random(seed))
            raise PowerCut

    def _sync(self, handle: int) -> None:
        """Take note of what is durable now; the handle stays open, so that no inode's number is used twice."""
        self._held.append(handle)
        path = _path(handle)
        if path.is_dir():
            self._names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}
        elif path.is_file():
            self._bytes[os.fstat(handle).st_ino] = path.read_bytes()

    def _leave(self, image: Path, chance: random.Random) -> None:
        """Write to `image` what the disk may show after the cut."""
        for folder in [self.root, *(path for path in sorted(self.root.rglob("*")) if path.is_dir())]:
            (image / folder.relative_to(self.root)).mkdir(parents=True, exist_ok=True)
            now = {entry.name: entry.inode() for entry in os.scandir(folder) if not entry.is_dir()}
            before = self._names.get(folder, {})
            for name in sorted(now.keys() | before.keys()):
                inode = chance.choice([now.get(name), before.get(name)])
                content = self._content(folder / name, now.get(name), inode, chance)
                if content is not None and not (folder / name).is_dir():
                    (image / folder.relative_to(self.root) / name).write_bytes(content)

    def _content(self, path: Path, now: int | None, inode: int | None, chance: random.Random) -> bytes | None:
        if inode is None:
            return None
        synced = self._bytes.get(inode)
        if inode != now:
            return synced  # the file that had this name before; None if it was a folder
        written = path.read_bytes()
        if synced == written:
            return written
        torn = written[: chance.randint(0, len(written))]
        return chance.choice([synced or b"", torn, torn + bytes(len(written) - len(torn)), written])

    def close(self) -> None:
        """Let go of the files."""
        for handle in self._held:
            os.close(handle)
