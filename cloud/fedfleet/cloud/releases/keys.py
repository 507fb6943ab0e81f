"""The keys that sign releases: ECDSA over P-256, a file of mode 600 each, `<role>-<number>.pem`.

Those of root and targets are for a safe, those of snapshot and timestamp may stay where metadata is refreshed.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from fedfleet.wire.errors import SettingsError, StoreError


def make(folder: Path, role: str, count: int) -> list[CryptoSigner]:
    """Make `count` keys for `role` in `folder`, numbered after those that are there. Raises StoreError."""
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        taken = [int(path.stem.rpartition("-")[2]) for path in folder.glob(f"{role}-*.pem")]
        for number in range(max(taken, default=0) + 1, max(taken, default=0) + count + 1):
            signer = CryptoSigner.generate_ecdsa()
            _write(folder / f"{role}-{number}.pem", signer.private_bytes)
            made.append(signer)
    except OSError as error:
        raise StoreError(f"{folder}: keys cannot be written: {error.strerror}") from None
    return made


def load(folder: Path) -> list[CryptoSigner]:
    """Return all keys in `folder`, whatever they are for. Raises SettingsError."""
    found = []
    for path in sorted(folder.glob("*.pem")):
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise SettingsError(f"{path} is no private key that can be read: {error}") from None
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise SettingsError(f"{path} is no key of ECDSA over P-256; take those of fedfleet release init")
        found.append(CryptoSigner(key))
    if not found:
        raise SettingsError(f"{folder} holds no keys (*.pem); name the folder that has them with --keys")
    return found


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
