"""The files by which a client is known, and the clock that all of them are held against."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from fedfleet.wire.clock import CLOCK_SET
from fedfleet.wire.doctor import pem
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine
from fedfleet.wire.doctor.kept import there
from fedfleet.wire.errors import StoreError
from fedfleet.wire.settings import Broker

SOON = 0.1  # the share of a certificate's life after which whoever renews it has had time enough
WITHOUT = beside("the openssl command is not installed, nothing else reads certificates")

UNSET = Cause(
    "clock-not-set", "the clock shows a year before 2024", "set the clock: timedatectl set-ntp true, or date -s"
)
BEHIND = Cause(
    "clock-behind", "the clock shows a time before the certificates begin", "set the clock: timedatectl set-ntp true"
)
AHEAD = Cause(
    "clock-ahead", "the clock shows a time after the authority's certificate ends",
    "set the clock if {now} is wrong; if it is right, the fleet needs a new authority",
)  # fmt: skip
CLOCK = (UNSET, BEHIND, AHEAD)

CA_MISSING = Cause(
    "ca-missing", "broker.ca names no readable file of certificates", "put the authority's certificate at {path}"
)
MISSING = Cause(
    "certificate-missing", "broker.certificate names a file that is not there", "put the certificate at {path}"
)
KEY_MISSING = Cause(
    "key-missing", "broker.key names a file that is not there", "put the key that belongs to {path} there"
)
DENIED = Cause(
    "certificate-denied", "this user may not read a file", "let {user} read {path}, or run doctor as the owner"
)
BROKEN = Cause(
    "certificate-broken", "a file is no PEM certificate or key", "have {path} made anew: PEM, without passphrase"
)
UNFIT = Cause(
    "key-does-not-fit", "the certificate is of another key", "put the key that {path} was made for at broker.key"
)
OPEN_KEY = Cause("key-mode", "others than its owner may read the key", "chmod 600 {path}")
OTHER_NAME = Cause(
    "certificate-name", "the certificate's common name is not the client's own",
    "use a certificate for {name}, or the name {found} in the settings",
)  # fmt: skip
FOREIGN = Cause(
    "certificate-foreign", "the certificate is not signed by broker.ca", "have {ca} sign one, or name its authority"
)
EXPIRED = Cause("certificate-expired", "the certificate has expired", "have a new certificate made for {name}")
EXPIRING = Cause(
    "certificate-expiring", "less than a tenth of the certificate's life is left",
    "renew {path}; where it renews itself, see why that has not worked",
)  # fmt: skip
OWN = (MISSING, KEY_MISSING, DENIED, BROKEN, UNFIT, OPEN_KEY, OTHER_NAME, FOREIGN, EXPIRED, EXPIRING)


class Owner(NamedTuple):
    """Whose credentials they are: the client's name, the broker it goes to, the user who looks, and now."""

    name: str
    broker: Broker
    user: str
    now: float


def clock(owner: Owner) -> Finding:
    """Whether the clock can be right; certificates that cannot be read say nothing of it."""
    shown = day(owner.now)
    if owner.now < CLOCK_SET:
        return failed(UNSET, f"it shows {shown}")
    above = readable_all(owner.broker.ca)
    own = [found] if (found := readable(owner.broker.certificate)) else []
    for found in (*above, *own):
        if owner.now < found.begins:
            return failed(BEHIND, f"it shows {shown}; the certificate of {found.name} begins on {day(found.begins)}")
    if above and owner.now > (last := max(above, key=lambda each: each.ends)).ends:
        return failed(AHEAD, f"it shows {shown}; {last.name} ended on {day(last.ends)}", now=shown)
    return fine(f"it shows {shown}")


def authority(owner: Owner) -> Finding:
    """Whether the authority's certificate can be read."""
    ca = owner.broker.ca
    if not ca:
        return beside("broker.ca is not set" if owner.broker.tls else "tls is off in [broker]")
    if why := _unreadable(ca):
        return failed(CA_MISSING, f"{ca}: {why}", path=ca)
    if not pem.available():
        return WITHOUT
    found = readable_all(ca)
    if not found:
        return failed(CA_MISSING, f"{ca}: no PEM", path=ca)
    last = max(found, key=lambda each: each.ends)
    return fine(f"{last.name}, until {day(last.ends)}")


def certificate(owner: Owner) -> Finding:
    """Whether the client's own certificate and key are there, belong together, and hold."""
    broker = owner.broker
    if not broker.certificate:
        return beside("broker.certificate is not set")
    for path, absent in ((broker.certificate, MISSING), (broker.key, KEY_MISSING)):
        if why := _unreadable(path):
            cause = DENIED if there(Path(path)) else absent
            return failed(cause, f"{path}: {why}", path=path, user=owner.user)
    if Path(broker.key).stat().st_mode & 0o077:
        return failed(OPEN_KEY, f"{broker.key} has mode {Path(broker.key).stat().st_mode & 0o777:o}", path=broker.key)
    return _read(owner) if pem.available() else WITHOUT


def _read(owner: Owner) -> Finding:
    path, key, ca = owner.broker.certificate, owner.broker.key, owner.broker.ca
    try:
        found = pem.certificate(path)
    except StoreError as error:
        return failed(BROKEN, f"{path}: {error}", path=path)
    try:
        if not pem.fits(path, key):
            return failed(UNFIT, f"{key} is not the key of {path}", path=path)
    except StoreError as error:
        return failed(BROKEN, f"{key}: {error}", path=key)
    if found.name != owner.name:
        return failed(
            OTHER_NAME, f"{path} is for {found.name}, this is {owner.name}", name=owner.name, found=found.name
        )
    if ca and (why := pem.unsigned(path, ca)):
        return failed(FOREIGN, f"{path} is signed by {found.issuer}: {why}", ca=ca)
    return lasting(found, path, owner.now) or fine(f"{found.name}, until {day(found.ends)}")


def lasting(found: pem.Certificate, path: str, now: float) -> Finding | None:
    """What is to be said of a certificate's end, if anything."""
    if found.left(now) < 0:
        return failed(EXPIRED, f"{path} ended on {day(found.ends)}", name=found.name)
    if found.left(now) < SOON:
        return failed(EXPIRING, f"{path} ends on {day(found.ends)}", path=path)
    return None


def readable(path: str) -> pem.Certificate | None:
    """The certificate at `path`, None where there is none to be read."""
    try:
        return pem.certificate(path) if path and not _unreadable(path) and pem.available() else None
    except StoreError:
        return None


def readable_all(path: str) -> list[pem.Certificate]:
    """All certificates at `path`, none where they cannot be read: an authority may come with others."""
    try:
        return pem.certificates(path) if path and not _unreadable(path) and pem.available() else []
    except StoreError:
        return []


def day(seconds: float) -> str:
    """The day of a moment, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _unreadable(path: str) -> str:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
