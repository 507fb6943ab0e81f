"""What stands in a certificate besides its key: names, and what it may be used for (RFC 5280)."""

from __future__ import annotations

import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def name(cn: str, o: str = "", ou: str = "") -> x509.Name:
    """Return a subject: common name, organisation, unit."""
    parts = ((NameOID.ORGANIZATION_NAME, o), (NameOID.ORGANIZATIONAL_UNIT_NAME, ou), (NameOID.COMMON_NAME, cn))
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts if text])


def extended(
    built: x509.CertificateBuilder,
    public: Public,
    issuer: Public,
    usage: x509.ObjectIdentifier | None,
    hosts: tuple[str, ...] = (),
) -> x509.CertificateBuilder:
    """Add what a certificate for `usage` has; an authority's own without a usage."""
    uses = ("digital_signature",) if usage else ("key_cert_sign", "crl_sign")
    found = built.add_extension(
        x509.BasicConstraints(ca=usage is None, path_length=None if usage else 0), critical=True
    )
    found = found.add_extension(x509.KeyUsage(**{use: use in uses for use in USES}), critical=True)
    found = found.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    found = found.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
    if usage:
        found = found.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if hosts:
        found = found.add_extension(x509.SubjectAlternativeName(list(map(_host, hosts))), critical=False)
    return found


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
