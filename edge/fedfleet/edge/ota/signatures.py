"""Signatures over metadata, checked by the `openssl` command that every board has: ECDSA over P-256 with SHA-256."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfleet.wire.errors import ReleaseError, StoreError

SCHEME = "ecdsa-sha2-nistp256"
KEY_TYPES = ("ecdsa", SCHEME)
MAX_KEY, MAX_SIGNATURE = 2048, 512  # characters; a key of P-256 has 178, a signature at most 144
PATIENCE = 60.0


@dataclass(frozen=True)
class Key:
    """A public key as metadata has it; `keyval` holds its PEM under `public`."""

    keytype: str
    scheme: str
    keyval: dict[str, str]

    @property
    def pem(self) -> str:
        """The key's PEM; empty for a key of another kind, which no signature is checked with."""
        known = self.keytype in KEY_TYPES and self.scheme == SCHEME
        text = self.keyval.get("public", "") if known else ""
        return text if len(text) <= MAX_KEY and text.startswith("-----BEGIN PUBLIC KEY-----") else ""


@dataclass(frozen=True)
class Signature:
    """A signature, DER in hex, and the id of the key that is said to have made it."""

    keyid: str
    sig: str


def signers(data: bytes, signatures: tuple[Signature, ...], keys: Mapping[str, Key]) -> int:
    """Return how many different ones of `keys` have signed `data`. Raises ReleaseError, StoreError.

    A key that is listed under two ids counts once.
    """
    found: set[str] = set()
    for each in signatures:
        pem = keys[each.keyid].pem if each.keyid in keys else ""
        if pem and pem not in found and _valid(data, each.sig, pem):
            found.add(pem)
    return len(found)


def _valid(data: bytes, signature: str, pem: str) -> bool:
    try:
        raw = bytes.fromhex(signature) if len(signature) <= MAX_SIGNATURE else b""
    except ValueError:
        return False
    try:
        with tempfile.TemporaryDirectory(prefix="fedfleet-") as name:
            key, sig = Path(name, "key"), Path(name, "signature")
            key.write_text(pem)
            sig.write_bytes(raw)
            command = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", str(sig)]
            ended = subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        raise ReleaseError("the command openssl is missing: install the package openssl") from None
    except subprocess.TimeoutExpired:
        raise ReleaseError("the command openssl hangs") from None
    except OSError as error:
        raise StoreError(f"signatures cannot be checked: {error.strerror}; free the disk or check it") from None
    return ended.returncode == 0
