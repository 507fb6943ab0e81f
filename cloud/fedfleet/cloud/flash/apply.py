"""Files onto a boot partition: room is looked for before the first byte, and every byte is read back after the last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfleet.cloud.flash.boot import Boot
from fedfleet.cloud.flash.content import FOLDER
from fedfleet.wire.errors import SettingsError, StoreError

MARKER = f"{FOLDER}/INCOMPLETE.txt"
WARNING = b"fedfleet flash has not finished with this card. Run it again.\n"
SPARE = 16  # clusters for folders that grow
KEPT = (f"{FOLDER}/install.log",)


@dataclass(frozen=True)
class Outcome:
    """What became of the files: names."""

    written: tuple[str, ...]
    removed: tuple[str, ...]
    same: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything was."""
        return bool(self.written or self.removed)


def apply(boot: Boot, planned: Mapping[str, bytes], name: str) -> Outcome:
    """Make the files on `boot` those that are planned, and read them all back.

    A marker lies beside them until they are whole. What an earlier bundle left is removed. Raises SettingsError before
    anything is written where there is no room, and StoreError where a file does not read back as it was written.
    """
    there = boot.names()
    ours = {found for found in there if found.startswith(f"{FOLDER}/") and found not in KEPT}
    stale = tuple(sorted(ours - set(planned)))
    written = tuple(key for key, data in planned.items() if key not in there or boot.read(key) != data)
    outcome = Outcome(written, stale, tuple(key for key in planned if key not in written))
    if not outcome.changed:
        return outcome
    _require_room(boot, [planned[key] for key in written], name)
    boot.write(MARKER, WARNING)
    for key in stale:
        if key != MARKER:
            boot.remove(key)
    for key in written:
        boot.write(key, planned[key])
    boot.sync()
    _compare(boot, planned, name)
    boot.remove(MARKER)
    boot.sync()
    return outcome


def _require_room(boot: Boot, new: list[bytes], name: str) -> None:
    """Old and new are there at once, so what old files hold does not count."""
    need = sum(-(-len(data) // boot.cluster) for data in new) + SPARE
    if need * boot.cluster > (free := boot.free()):
        raise SettingsError(
            f"{name}: {free:,} bytes are free on the boot partition and {need * boot.cluster:,} are needed; "
            "take a fresh image, or a smaller bundle"
        )


def _compare(boot: Boot, planned: Mapping[str, bytes], name: str) -> None:
    for key, data in planned.items():
        if boot.read(key) != data:
            raise StoreError(f"{name}: {key} does not read back as it was written; take another card")
