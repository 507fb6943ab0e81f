"""A rollout on the disk, whole old or whole new; whoever changes it holds a lock, so that no order is lost."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError, StoreError
from fedfleet.wire.record import Mismatch, build, plain

T = TypeVar("T")
LOCK = "rollout.lock"


class Kept(Generic[T]):
    """One `cls` in the file `name` of a folder."""

    def __init__(self, folder: Path, name: str, cls: type[T]) -> None:
        self._folder, self._path, self._cls = folder, folder / name, cls

    def read(self) -> T | None:
        """Return it, None where there is none. Raises StoreError."""
        try:
            return build(self._cls, json.loads(self._path.read_bytes()), strict=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, Mismatch) as error:
            raise StoreError(f"{self._path} cannot be read: {error}; remove it, and start the rollout anew") from None

    def there(self) -> T:
        """Return it; raises SettingsError where there is none, StoreError."""
        found = self.read()
        if found is None:
            raise SettingsError(f"no rollout was ever started in {self._folder}")
        return found

    def change(self, change: Callable[[T | None], T]) -> T:
        """Put what `change` makes of it in its place, and return that. Raises StoreError, and what `change` raises."""
        with self._held():
            before = self.read()
            after = change(before)
            if after != before:
                files.write(self._path, json.dumps(plain(after), indent=1).encode())
            return after

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            handle = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"{self._folder / LOCK} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
