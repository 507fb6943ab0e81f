"""What is in a PEM file, read by the `openssl` command, which boards have; nothing here needs a package."""

from __future__ import annotations

import math
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

from fedfleet.wire.errors import StoreError

PATIENCE = 20.0
BEGIN = "-----BEGIN CERTIFICATE-----"
SHOWN = ("-noout", "-subject", "-issuer", "-nameopt", "multiline,utf8,-esc_msb", "-startdate", "-enddate")


class Certificate(NamedTuple):
    """The first certificate of a file: whose it is, who signed it, and its validity in seconds since 1970."""

    name: str
    issuer: str
    begins: float
    ends: float

    def left(self, now: float) -> float:
        """The share of its life that is left, below 0 for an expired one."""
        return (self.ends - now) / max(self.ends - self.begins, 1.0)


def available() -> bool:
    """Whether there is an `openssl` command."""
    return shutil.which("openssl") is not None


def certificate(path: Path | str) -> Certificate:
    """Return the first certificate in `path`; raises StoreError where there is none."""
    return _parsed(_openssl("x509", "-in", str(path), *SHOWN))


def certificates(path: Path | str) -> list[Certificate]:
    """Return all certificates in `path`; raises StoreError."""
    return [_parsed(_openssl("x509", *SHOWN, text=block)) for block in _blocks(Path(path))]


def claimed(path: Path | str) -> Certificate:
    """Return the certificate that a claim file is about, not its authority's. Raises StoreError."""
    own = [each for each in certificates(path) if each.name.startswith("claim-")]
    if not own:
        raise StoreError("it holds no certificate of a claim")
    return own[0]


def names(path: Path | str) -> tuple[str, ...]:
    """Return the host names and addresses that the first certificate in `path` lists; raises StoreError."""
    text = _openssl("x509", "-in", str(path), "-noout", "-ext", "subjectAltName")
    words = [word.strip() for line in text.splitlines()[1:] for word in line.split(",")]
    return tuple(word.partition(":")[2] for word in words if word.startswith(("DNS:", "IP Address:")))


def fits(certificate_: Path | str, key: Path | str) -> bool:
    """Whether `key` is that of the certificate; raises StoreError where it is no key, or has a passphrase."""
    own = _openssl("x509", "-in", str(certificate_), "-noout", "-pubkey")
    return own == _openssl("pkey", "-in", str(key), "-pubout", "-passin", "pass:")


def unsigned(certificate_: Path | str, ca: Path | str, *crl: Path | str) -> str:
    """Say why `ca`, with a list of revoked certificates if one is given, does not vouch for it; empty if it does."""
    revoked = [word for file in crl for word in ("-crl_check", "-CRLfile", str(file))]
    timeless = ["-no_check_time", "-partial_chain", "-untrusted", str(certificate_)]
    ended = _run("verify", "-CAfile", str(ca), *timeless, *revoked, str(certificate_))
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error ")]
    return "" if ended.returncode == 0 else (lines[0] if lines else ended.stderr.strip() or "it is not signed by it")


def next_update(crl: Path | str) -> float:
    """Return when the list of revoked certificates in `crl` is out of date; raises StoreError."""
    text = _openssl("crl", "-in", str(crl), "-noout", "-nextupdate")
    when = text.strip().partition("=")[2]
    return math.inf if when == "NONE" else ssl.cert_time_to_seconds(when)


def _parsed(text: str) -> Certificate:
    subject, _, rest = text.partition("issuer=")
    lines = [line.partition("=") for line in text.splitlines()]
    dates = {key: value for key, _, value in lines if key in ("notBefore", "notAfter")}
    begins, ends = (ssl.cert_time_to_seconds(dates[key]) for key in ("notBefore", "notAfter"))
    return Certificate(_common(subject), _common(rest), begins, ends)


def _blocks(path: Path) -> list[str]:
    """The certificates of a PEM file, one text each."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}") from None
    return [f"{BEGIN}{part}" for part in text.split(BEGIN)[1:]]


def _common(text: str) -> str:
    lines = [line.partition("=") for line in text.splitlines()]
    return next((value.strip() for key, _, value in lines if key.strip() == "commonName"), "")


def _openssl(*arguments: str, text: str = "") -> str:
    ended = _run(*arguments, text=text)
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        raise StoreError(said[0] if said else "openssl cannot read it")
    return ended.stdout


def _run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = ["openssl", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE, check=False)
