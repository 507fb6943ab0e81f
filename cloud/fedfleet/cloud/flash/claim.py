"""A claim file: a certificate of a few days by which a board asks for one of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from fedfleet.wire.errors import SettingsError

MAX_CLAIM = 64 * 1024
MAKE = "make one with `fedfleet enrol claim`"


@dataclass(frozen=True)
class Claim:
    """What a claim says: whose fleet it is for, and which device where it is bound to one. `data` is the file."""

    fleet: str
    device: str
    expires: datetime
    data: bytes


def load(path: Path, now: datetime | None = None) -> Claim:
    """Return the claim in `path`; raises SettingsError where it is none, damaged or expired."""
    try:
        data = path.read_bytes()[: MAX_CLAIM + 1]
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}; {MAKE}") from None
    words = dict(re.findall(r"(?m)^# *(\w+) *= *(\S+)", data.decode("utf-8", "replace").partition("-----BEGIN")[0]))
    if len(data) > MAX_CLAIM or not words.get("fleet"):
        raise SettingsError(f"{path}: not a claim file; {MAKE}")
    expires = _certificate(path, data).not_valid_after_utc
    if expires <= (now or datetime.now(UTC)):
        raise SettingsError(f"{path}: this claim expired on {expires:%Y-%m-%d}; {MAKE}")
    return Claim(words["fleet"], words.get("device", ""), expires, data)


def _certificate(path: Path, data: bytes) -> x509.Certificate:
    """The claim's own certificate, which its authority has signed and its key belongs to."""
    try:
        found = x509.load_pem_x509_certificates(data)
        own = next(certificate for certificate in found if _name(certificate).startswith("claim-"))
        key = load_pem_private_key(data[data.index(b"-----BEGIN", data.index(b"PRIVATE KEY") - 30) :], None)
        issuer = next(certificate for certificate in found if certificate.subject == own.issuer)
        own.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, StopIteration, InvalidSignature):
        raise SettingsError(f"{path}: damaged: it lacks its certificate, its key or its authority; {MAKE}") from None
    if key.public_key() != own.public_key():
        raise SettingsError(f"{path}: damaged: its key is not that of its certificate; {MAKE}")
    return own


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
