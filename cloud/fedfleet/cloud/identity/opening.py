"""A new authority's folder, and the claims that it gives out."""

from __future__ import annotations

import secrets
import shutil
from datetime import timedelta
from pathlib import Path

from fedfleet.cloud.identity import authority, folder
from fedfleet.cloud.identity.authority import Authority, key_pem, new_key
from fedfleet.cloud.identity.claims import Terms, check
from fedfleet.cloud.identity.folder import Fleet
from fedfleet.cloud.identity.ledger import Certificate, Claim, Ledger
from fedfleet.cloud.identity.signing import digest
from fedfleet.wire import files
from fedfleet.wire.enrolment import ROLES
from fedfleet.wire.errors import SettingsError, StoreError


def make(pki: Path, fleet: Fleet, now: float, brought: tuple[Path, Path] | None = None) -> None:
    """Make the folder `pki`, all of it or none; with an authority of one's own if its two files are `brought`.

    Raises SettingsError, and StoreError where there is such a folder.
    """
    authority.require_clock(now)
    if pki.exists() and (not pki.is_dir() or any(pki.iterdir())):
        raise StoreError(f"{pki} is there already, and nothing in it was touched; choose another folder")
    signer = authority.read(*brought, now) if brought else authority.made(fleet.fleet, now)
    temporary = pki.with_name(f".{pki.name}.tmp")
    try:
        if temporary.is_dir():
            shutil.rmtree(temporary)  # of one that was killed
        temporary.mkdir(parents=True)
        _fill(temporary, fleet, signer, now)
        temporary.rename(pki)
        files.sync(pki.parent)
    except OSError as error:
        raise StoreError(f"{pki} cannot be written: {error.strerror}; choose another folder") from None


def claims(pki: Path, terms: Terms, out: Path, count: int, now: float) -> list[tuple[str, Path]]:
    """Give `count` claims out; returns their names and files: `out`, or one of each claim's name in the folder `out`.

    Raises SettingsError, and StoreError where a file is there already.
    """
    fleet, signer = folder.read(pki), authority.of(pki, now)
    check(terms, fleet.fleet)
    if count > 1 and terms.device:
        raise SettingsError("several claims for one device are of no use; leave out the count or the device")
    if count > 1 and not out.is_dir():
        try:
            out.mkdir(parents=True)
        except OSError as error:
            raise StoreError(f"{out} cannot be made: {error.strerror}; choose another folder") from None
    if out.is_file():
        raise StoreError(f"{out} is there already, and may be a claim that somebody needs; choose another name")
    ledger = Ledger(pki)
    try:
        return [_claim(ledger, fleet, signer, terms, out, now) for _ in range(count)]
    finally:
        ledger.close()


def _claim(ledger: Ledger, fleet: Fleet, signer: Authority, terms: Terms, out: Path, now: float) -> tuple[str, Path]:
    """Note a claim, and write its file: its certificate first, since that is the one that TLS takes."""
    name, key = f"claim-{secrets.token_hex(6)}", new_key()
    life, names = timedelta(days=terms.days), {"o": fleet.fleet, "ou": terms.group}
    serial, pem, ends = signer.client(name, key.public_key(), now, life, **names)
    known, path = digest(key.public_key()), out / f"{name}.pem" if out.is_dir() else out
    with ledger.transaction():
        ledger.add(Claim(name, terms.group, terms.device, terms.accepts, ends))
        ledger.certify(Certificate(serial, name, terms.group, "", known, pem.decode(), now, ends))
        files.write(path, _head(fleet, terms).encode() + pem + signer.pem + key_pem(key), secret=True)
    return name, path


def _head(fleet: Fleet, terms: Terms) -> str:
    """What people, and other commands, read in a claim file."""
    lines = [
        "fedfleet claim",
        f"fleet = {fleet.fleet}",
        f"group = {terms.group}",
        f"broker = {fleet.hosts[0]}:{fleet.port}",
    ]
    lines += [f"device = {terms.device}"] if terms.device else []
    return "".join(f"# {line}\n" for line in lines)


def _fill(pki: Path, fleet: Fleet, signer: Authority, now: float) -> None:
    files.write(pki / folder.CA, signer.pem)
    files.write(pki / folder.CA_KEY, key_pem(signer.key), secret=True)
    files.write(pki / folder.CRL, signer.crl([], now))
    files.write(pki / folder.FLEET, fleet.text.encode())
    key = new_key()
    _pair(pki, "broker", signer.server(fleet.hosts, key.public_key(), now).pem + signer.pem, key_pem(key))
    for role in ROLES:
        key = new_key()
        made = signer.client(f"{fleet.fleet}-{role}", key.public_key(), now, authority.SERVER, o=fleet.fleet)
        _pair(pki, role, made.pem, key_pem(key))
    Ledger(pki, new=True).close()


def _pair(pki: Path, name: str, certificate: bytes, key: bytes) -> None:
    files.write(pki / f"{name}.key", key, secret=True)
    files.write(pki / f"{name}.pem", certificate)
