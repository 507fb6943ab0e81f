"""What is in an authority's folder: its certificate, keys, the list of the revoked, the broker's certificate."""

from __future__ import annotations

import stat
from ipaddress import ip_address

from fedfleet.cloud.doctor.subject import Authority
from fedfleet.cloud.identity import folder
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.wire.doctor import kept, pem
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine
from fedfleet.wire.doctor.credentials import SOON, WITHOUT, day
from fedfleet.wire.errors import StoreError

LEAST = 16.0  # MiB
BROKEN = Cause("pki-broken", "a file of the authority is missing or cannot be read", "bring {path} back from a backup")
OPEN_KEY = Cause("pki-key-mode", "others than its owner may read a key", "chmod 600 {path}")
CA_EXPIRING = Cause(
    "pki-ca-expiring", "less than a tenth of the life of the authority is left",
    "plan a new authority: devices need certificates of it before {day}",
)  # fmt: skip
CA = (BROKEN, CA_EXPIRING)
STALE = Cause(
    "crl-stale", "the list of revoked certificates is out of date, so the broker refuses everybody",
    "fedfleet pki revoke writes a new one, or restore {path}",
)  # fmt: skip
CRL = (BROKEN, STALE)
SERVER_NAMES = Cause(
    "server-names", "the broker's certificate does not list a host of fleet.toml",
    "correct hosts in {path}, or have the broker's certificate made anew for {host}",
)  # fmt: skip
SERVER_UNFIT = Cause(
    "server-key", "the broker's key is not that of its certificate", "bring broker.pem and broker.key back"
)
SERVER_FOREIGN = Cause("server-foreign", "the broker's certificate is not signed by ca.pem", "have it made anew")
SERVER_ENDS = Cause("server-expired", "the broker's certificate has ended, or will soon", "have broker.pem made anew")
SERVER = (BROKEN, SERVER_NAMES, SERVER_UNFIT, SERVER_FOREIGN, SERVER_ENDS)
LEDGER = (
    Cause("ledger-broken", "the ledger of claims and certificates cannot be read", "bring {path} back from a backup"),
)
LITTLE = Cause("pki-disk-full", "less than 16 MiB are free", "free room on the disk of {path}")


def keys(authority: Authority) -> Finding:
    """Whether nobody but their owner may read the keys."""
    found = sorted(authority.pki.glob("*.key"))
    for path in found:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            return failed(OPEN_KEY, f"{path} has mode {stat.S_IMODE(path.stat().st_mode):o}", path=path)
    return fine(f"{len(found)} keys, for their owner alone")


def ca(authority: Authority) -> Finding:
    """Whether the authority lasts."""
    path, now = authority.pki / folder.CA, authority.visitor.owner.now
    if not pem.available():
        return WITHOUT
    try:
        found = pem.certificate(path)
    except StoreError as error:
        return failed(BROKEN, f"{path}: {error}", path=path)
    if found.left(now) < SOON:
        return failed(CA_EXPIRING, f"{found.name} ends on {day(found.ends)}", day=day(found.ends))
    return fine(f"{found.name}, until {day(found.ends)}")


def crl(authority: Authority) -> Finding:
    """Whether the list of the revoked is of use: an old one shuts everybody out."""
    path = authority.pki / folder.CRL
    if not pem.available():
        return WITHOUT
    try:
        until = pem.next_update(path)
    except StoreError as error:
        return failed(BROKEN, f"{path}: {error}", path=path)
    if until < authority.visitor.owner.now:
        return failed(STALE, f"{path} was good until {day(until)}", path=path)
    return fine(f"good until {day(until)}")


def server(authority: Authority) -> Finding:
    """Whether devices will take the broker for what it is, under each name that they may be given."""
    if not pem.available():
        return WITHOUT
    path, key = authority.pki / "broker.pem", authority.pki / "broker.key"
    try:
        found, listed = pem.certificate(path), {_plain(name) for name in pem.names(path)}
        fits = pem.fits(path, key) if key.exists() else True
    except StoreError as error:
        return failed(BROKEN, f"{path}: {error}", path=path)
    if not fits:
        return failed(SERVER_UNFIT, f"{key} is not the key of {path}")
    return _served(authority, found, listed)


def _served(authority: Authority, found: pem.Certificate, listed: set[str]) -> Finding:
    path = authority.pki / "broker.pem"
    lacking = [host for host in authority.fleet.hosts if _plain(host) not in listed]
    if lacking:
        places = {"host": lacking[0], "path": authority.pki / folder.FLEET}
        return failed(SERVER_NAMES, f"it lists {', '.join(sorted(listed))}, not {lacking[0]}", **places)
    if why := pem.unsigned(path, authority.pki / folder.CA):
        return failed(SERVER_FOREIGN, why)
    if found.left(authority.visitor.owner.now) < SOON:
        return failed(SERVER_ENDS, f"{path} ends on {day(found.ends)}")
    return fine(f"for {', '.join(sorted(listed))}, until {day(found.ends)}")


def ledger(authority: Authority) -> Finding:
    """Whether it is known who is in the fleet."""
    path = authority.pki / folder.LEDGER
    if not path.exists():
        return beside("nobody was enrolled yet")
    try:
        found = Ledger(authority.pki)
        try:
            count, revoked = len(found.certificates()), len(found.revoked())
        finally:
            found.close()
    except StoreError as error:
        return failed(LEDGER[0], str(error), path=path)
    return fine(f"{count} certificates, {revoked} revoked")


def disk(authority: Authority) -> Finding:
    """Whether there is room for what is to be written."""
    free = kept.free(authority.pki)
    return fine(f"{free:.0f} MiB are free") if free >= LEAST else failed(LITTLE, f"{free:.0f} MiB", path=authority.pki)


def _plain(host: str) -> str:
    """One spelling for each address; OpenSSL writes those of IPv6 at length."""
    try:
        return str(ip_address(host))
    except ValueError:
        return host.lower()
