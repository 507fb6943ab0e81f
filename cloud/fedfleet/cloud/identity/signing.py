"""Signing requests (PKCS#10): read, checked, and reduced to what is taken over of them, a name and a public key."""

from __future__ import annotations

import hashlib
import warnings
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedfleet.wire.errors import FrameError


class Request(NamedTuple):
    """The common name, the public key, that key's SHA-256 (of its DER) in hex, and the request alone in PEM."""

    cn: str
    public: ec.EllipticCurvePublicKey
    key: str
    pem: str


def opened(csr: bytes) -> Request:
    """Return what is in a signing request in PEM; raises FrameError unless it is signed by its own EC P-256 key."""
    try:
        found = x509.load_pem_x509_csr(csr)
        with warnings.catch_warnings(action="ignore"):  # of a name that is too long, which we say ourselves
            public, names = found.public_key(), found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise FrameError("the request's key must be EC P-256")
        if len(names) != 1 or not isinstance(names[0].value, str):
            raise FrameError("the request must have one common name")
        if not found.is_signature_valid:
            raise FrameError("the request is not signed by its own key")
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
    ):  # its text is the parser's, and of no help
        raise FrameError("this is no signing request in PEM") from None
    return Request(names[0].value, public, digest(public), found.public_bytes(serialization.Encoding.PEM).decode())


def digest(public: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key's DER, in hex."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
