"""A bundle into a repository: its files become signed targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from fedfleet.cloud.releases.repository import Repository, next_serial
from fedfleet.wire import files
from fedfleet.wire.bundle import FILE, Bundle, parse
from fedfleet.wire.errors import DataError, SettingsError
from fedfleet.wire.record import Mismatch


def read(folder: Path) -> Bundle:
    """Return what a bundle says of itself, every wheel compared with that. Raises DataError."""
    try:
        found = parse((folder / FILE).read_bytes())
        for wheel in found.wheels:
            path = folder / "wheels" / wheel.name
            if path.stat().st_size != wheel.size or files.digest(path) != wheel.sha256:
                raise DataError(f"{path} is not what {FILE} says; make the bundle again")
    except (OSError, Mismatch) as error:
        raise DataError(f"{folder} is no bundle that can be read: {error}; see fedfleet bundle") from None
    return found


def add(repo: Repository, folder: Path, keys: Sequence[CryptoSigner]) -> tuple[Bundle, str]:
    """Add the bundle in `folder` to the targets; returns it, and which signatures are missing still.

    Adding one that is there already makes it the newest again: so a whole fleet goes back to it. Raises DataError,
    SettingsError where another bundle of that version is there, StoreError.
    """
    bundle = read(folder)
    place = f"{bundle.version}/{bundle.machine}-{bundle.python}"
    targets = repo.targets.signed
    board = {"version": bundle.version, "machine": bundle.machine, "python": bundle.python}
    custom = {**board, "serial": next_serial(targets)}
    sources = {FILE: folder / FILE, **{wheel.name: folder / "wheels" / wheel.name for wheel in bundle.wheels}}
    for name, source in sources.items():
        path = f"{place}/{name}"
        made = repo.keep(path, source)
        there = targets.targets.get(path)
        if there is not None and there.hashes != made.hashes:
            raise SettingsError(f"another bundle of version {bundle.version} is there; give this one another version")
        made.unrecognized_fields["custom"] = custom
        targets.targets[path] = made
    return bundle, repo.change(targets, keys)
