"""The device's identity: one PEM file with its certificate, the issuers behind it, and its private key.

One file, so that a renewal is one rename. A key that is not certified yet lies beside it, by the name of who asks. Keys
and requests are made by the `openssl` command, which every Raspberry Pi OS has; `docs/identity.md` says why.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedfleet.wire import files
from fedfleet.wire.enrolment import BACKDATED, CLAIM
from fedfleet.wire.errors import FrameError, SettingsError, StoreError
from fedfleet.wire.messages import draw

PATIENCE = 60.0  # seconds for a command that takes a hundredth of one
BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n")
DATE = "%b %d %H:%M:%S %Y GMT"


@dataclass(frozen=True)
class Known:
    """What a certificate says: whose it is, of which public key (PEM), from when to when (seconds since 1970)."""

    name: str
    public: bytes
    begins: float
    ends: float

    def due(self) -> float:
        """When to ask for the next one: in the last third of its life, each device at a moment of its own."""
        life = self.ends - self.begins
        life -= BACKDATED if life > BACKDATED else 0.0  # it was made a year after it begins
        return self.ends - life / 3 * (1 - draw("renew", 0, self.name) / 2)


class Identity:
    """The identity of `device` in the file `path`, and beside it the key of each certificate that is asked for."""

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        self.device = device

    def known(self) -> Known:
        """Return what the certificate says. Raises StoreError where the file holds none."""
        try:
            return read(self.path.read_bytes())
        except (OSError, FrameError) as error:
            raise StoreError(f"{self.path} holds no certificate: {error}; enrol this device anew") from None

    def claim(self) -> str:
        """Return the claim by which the device was enrolled; empty where that is not known."""
        found = re.search(rb"^# claim = (claim-[0-9a-f]{12})$", _bytes(self.path), re.MULTILINE)
        return found[1].decode() if found else ""

    def request(self, by: str) -> bytes:
        """Return a signing request for what the claim, or device, `by` asks for; its key is made if it is not there.

        Raises StoreError.
        """
        if not _public(self._key(by)):
            key = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
            files.write(self._key(by), key, secret=True)
        return openssl("req", "-new", "-key", str(self._key(by)), "-subj", f"/CN={self.device}")

    def fingerprint(self, by: str) -> str:
        """Return the SHA-256 of the public key that `by` asks with, in hex, as the desk shows it to its operator."""
        body = b"".join(_public(self._key(by)).splitlines()[1:-1])
        return hashlib.sha256(base64.b64decode(body)).hexdigest()

    def take(self, chain: bytes, ca: str, by: str) -> None:
        """Make `chain` the identity, with the key that `by` has asked for it with; again is as good as once.

        Raises FrameError where it does not fit the key, the name or the authority in the file `ca`; StoreError.
        """
        if _bytes(self.path).startswith(chain):
            return
        found = read(chain)
        if found.name != self.device:
            raise FrameError(f"the certificate is for {found.name[:36]!r}, not {self.device}")
        if _public(self._key(by)) != found.public:
            raise FrameError("the certificate is for another key than ours")
        openssl("verify", "-no_check_time", "-purpose", "sslclient", "-CAfile", ca, said=BLOCK.findall(chain)[0])
        claim = by if CLAIM.fullmatch(by) else self.claim()
        files.write(self.path, chain + _bytes(self._key(by)) + f"# claim = {claim}\n".encode(), secret=True)
        self.settle()

    def settle(self) -> None:
        """Remove each key beside the identity that is in it, or half removed: a kill came in between."""
        for path in self.path.parent.glob(f"{self.path.name}.*"):
            if not _public(path) or _bytes(path) in _bytes(self.path):
                files.scrub(path)

    def _key(self, by: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{by}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None


def _public(path: Path) -> bytes:
    """Return the public key (PEM) to the private one in a file; empty where there is none."""
    try:
        return openssl("pkey", "-in", str(path), "-pubout") if path.is_file() else b""
    except FrameError:
        return b""


def read(chain: bytes) -> Known:
    """Return what the first certificate in `chain` says; raises FrameError where there is none."""
    blocks = BLOCK.findall(chain)
    if not blocks:
        raise FrameError("this is no certificate in PEM")
    asked = ("-noout", "-subject", "-nameopt", "multiline,-align", "-dates", "-pubkey")
    said = openssl("x509", *asked, said=blocks[0]).decode("ascii", "replace")
    name = re.search(r"^ *commonName = (.*)$", said, re.MULTILINE)
    public = re.search(r"-----BEGIN PUBLIC KEY-----.*-----END PUBLIC KEY-----\n", said, re.DOTALL)
    dates = [re.search(rf"^{which}=(.*)$", said, re.MULTILINE) for which in ("notBefore", "notAfter")]
    if name is None or public is None or None in dates:
        raise FrameError("the certificate has no name, no key or no dates")
    begins, ends = (_seconds(date[1]) for date in dates if date)
    return Known(name[1], public[0].encode(), begins, ends)


def openssl(*arguments: str, said: bytes = b"") -> bytes:
    """Return what the `openssl` command prints, given `said`; raises FrameError for a no, SettingsError without it."""
    try:
        ended = subprocess.run(["openssl", *arguments], input=said, capture_output=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        raise SettingsError("the command openssl is missing; install it: apt install openssl") from None
    except OSError as error:
        raise StoreError(f"the command openssl cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise StoreError(f"openssl {arguments[0]} took over {PATIENCE:g} s; see what else this board does") from None
    if ended.returncode:
        words = " ".join(ended.stderr.decode("ascii", "replace").split())
        raise FrameError(f"openssl {arguments[0]}: {words[-120:]}")
    return ended.stdout


def _seconds(date: str) -> float:
    return datetime.strptime(" ".join(date.split()), DATE).replace(tzinfo=UTC).timestamp()
