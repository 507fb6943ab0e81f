"""An authority for tests: also certificates that no real one would sign, and the PKI folder of a fleet."""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
FLEET = "mill"
HERE = ("localhost", "127.0.0.1")
ROLES = ("cloud", "enrol", "operator")


class Authority:
    """Signs into its folder; `listed` has the serial numbers that its list says are revoked."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _subject(f"authority {folder.name}")
        self.listed: list[int] = []
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        built = self._built(self.name, self.key.public_key(), -DAY, 30 * DAY)
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        (folder / "ca.pem").write_bytes(_pem(built.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())))
        (folder / "ca.key").write_bytes(_key(self.key))
        self.write_crl()

    def sign(
        self, name: str, file: str, *, hosts: Iterable[str] = (), begins: timedelta = -DAY, ends: timedelta = DAY
    ) -> int:
        """Write FILE.pem and FILE.key for the common name `name`, whatever it is; returns the serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = self._built(_subject(name), key.public_key(), begins, ends)
        if names := [_host(host) for host in hosts]:
            built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = built.sign(self.key, hashes.SHA256())
        (self.folder / f"{file}.pem").write_bytes(_pem(certificate))
        (self.folder / f"{file}.key").write_bytes(_key(key))
        return certificate.serial_number

    def write_crl(self) -> None:
        """Write crl.pem, each list newer than the one before."""
        began = datetime.now(UTC) - DAY + timedelta(seconds=len(self.listed))
        built = x509.CertificateRevocationListBuilder(self.name, began, began + 30 * DAY)
        for serial in self.listed:
            built = built.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, began).build())
        (self.folder / "crl.pem").write_bytes(built.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def revoke(self, *serials: int) -> None:
        """List certificates as revoked."""
        self.listed += serials
        self.write_crl()

    def _built(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, begins: timedelta, ends: timedelta
    ) -> x509.CertificateBuilder:
        now, serial = datetime.now(UTC), x509.random_serial_number()
        return x509.CertificateBuilder(self.name, subject, public, serial, now + begins, now + ends)


def pki(folder: Path, port: int = 8883, hosts: tuple[str, ...] = HERE) -> Authority:
    """Make the PKI folder of a fleet, as `fedfleet pki init` does."""
    authority = Authority(folder)
    authority.sign("broker", "broker", hosts=hosts)
    for role in ROLES:
        authority.sign(f"{FLEET}-{role}", role)
    listed = ", ".join(f'"{host}"' for host in hosts)
    (folder / "fleet.toml").write_text(f'fleet = "{FLEET}"\nhosts = [{listed}]\nport = {port}\n')
    return authority


def _subject(name: str) -> x509.Name:
    # unchecked: an authority that errs, or that is none of ours, signs names of any length
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
