"""Shutting a device, or a claim, out: in the ledger first, then in the list that the broker reads, then in its ACL.

Each step can be taken again: whoever is killed in between revokes once more, and all three agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fedfleet.cloud.identity import authority, folder
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.topics import name

BEGIN, END = "# revoked: written by fedfleet, do not edit from here", "# revoked: to here"


class Revoked(NamedTuple):
    """What was revoked: the name, the serial numbers, and whether the broker's ACL was there to be rewritten."""

    device: str
    serials: tuple[str, ...]
    acl: bool


def revoke(pki: Path, device: str, now: float, reason: str = "") -> Revoked:
    """Revoke all certificates of a device or a claim. Raises SettingsError for a name that has none, StoreError."""
    name(device, "device")
    signer = authority.of(pki, now)
    ledger = Ledger(pki)
    try:
        with ledger.transaction():
            serials = ledger.revoke(device, now, reason)
            if not serials and device not in ledger.denied():
                raise SettingsError(f"{device} has no certificate; `fedfleet pki show {pki}` lists those that have one")
            path = pki / folder.CRL
            files.write(path, signer.crl(ledger.revoked(), now, path.read_bytes() if path.is_file() else b""))
        return Revoked(device, tuple(serials), deny(pki, ledger))
    finally:
        ledger.close()


def deny(pki: Path, ledger: Ledger) -> bool:
    """Rewrite who is shut out in the broker's ACL, if there is one; returns whether there is."""
    path = pki / folder.ACL
    if not path.is_file():
        return False
    before = path.read_text()
    after = before.partition(BEGIN)[0].rstrip("\n") + "\n" + denials(ledger)
    if after != before:
        files.write(path, after.encode())
    return True


def denials(ledger: Ledger) -> str:
    """Return the end of an ACL: everything denied to each name that was shut out. Empty where none was."""
    lines = [f"\nuser {device}\ntopic deny #" for device in sorted(ledger.denied())]
    return "\n".join(["", BEGIN, *lines, END, ""]) if lines else ""
