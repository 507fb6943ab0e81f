"""The folder that a broker runs from: its settings, its access list, and of a PKI folder what a broker may have.

Where it is the PKI folder itself, nothing is copied. Another one may go to the broker's machine as it is: no key that
signs certificates is in it. The PKI folder always has the access list, where revocations are added, and in
`broker.folder` it has the path of that other folder, so that they get there.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedfleet.cloud.broker.acl import acl
from fedfleet.cloud.broker.conf import conf
from fedfleet.cloud.broker.layout import Layout
from fedfleet.cloud.identity.folder import LEDGER
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.cloud.identity.revocation import denials
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError, StoreError

KEPT = "broker.folder"
COPIED = ("ca.pem", "crl.pem", "broker.pem", "broker.key", "acl")
CHANGING = ("crl.pem", "acl")


def write(pki: Path, folder: Path, layout: Layout, *, gossip: bool = False) -> list[Path]:
    """Write all that a broker of `layout` needs into `folder`, which may be `pki`, and return the files written.

    Raises SettingsError where the PKI folder lacks something, and StoreError where a file cannot be written.
    """
    for name in COPIED[:-1]:
        _source(pki / name)
    try:
        (folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        _owned(folder / "data", folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}; name another with --out") from None
    put(pki / "acl", (acl(layout.fleet, gossip=gossip) + _denials(pki)).encode())
    put(folder / "mosquitto.conf", conf(layout).encode())
    found = [folder / "mosquitto.conf", pki / "acl"]
    if folder.resolve() == pki.resolve():
        files.remove(pki / KEPT)
        return found
    put(pki / KEPT, f"{folder.resolve()}\n".encode())
    return [*found[:1], *copied(pki, folder, COPIED)]


def copied(pki: Path, folder: Path, names: tuple[str, ...] = CHANGING) -> list[Path]:
    """Copy from the PKI folder what a broker needs, by default what a revocation changes; raises as `write` does."""
    for name in names:
        put(folder / name, _source(pki / name))
    return [folder / name for name in names]


def kept(pki: Path) -> Path:
    """Return the folder that the broker of a PKI folder runs from; that folder itself where no other was written."""
    try:
        return Path((pki / KEPT).read_text().strip())
    except FileNotFoundError:
        return pki
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{pki / KEPT} cannot be read: {error}; run fedfleet broker config again") from None


def put(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, for nobody to read but the owner of its folder; raises StoreError."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        _owned(temporary, path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None
    files.settle(temporary, path)


def _owned(path: Path, folder: Path) -> None:
    """Give `path` to the owner of `folder`, where we may: a broker reads its files as a user of its own."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _denials(pki: Path) -> str:
    if not (pki / LEDGER).is_file():
        return ""
    ledger = Ledger(pki)
    try:
        return denials(ledger)
    finally:
        ledger.close()


def _source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}; fedfleet pki init makes it") from None
