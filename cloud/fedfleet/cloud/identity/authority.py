"""The authority: signs certificates and lists of revoked ones. EC P-256 and SHA-256 for all that it makes.

Certificates and lists begin a year before they are made, for boards and brokers whose clock is behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedfleet.cloud.identity import folder
from fedfleet.cloud.identity.extensions import extended, name
from fedfleet.wire.clock import CLOCK_SET
from fedfleet.wire.enrolment import BACKDATED
from fedfleet.wire.errors import SettingsError

DEVICE, SERVER, AUTHORITY = timedelta(days=730), timedelta(days=5 * 365), timedelta(days=20 * 365)
Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Signed(NamedTuple):
    """A certificate that was signed: its serial number in hex, its PEM, and when it ends (seconds since 1970)."""

    serial: str
    pem: bytes
    ends: float


@dataclass(frozen=True)
class Authority:
    """Signs in the name of the first certificate of `chain`; the others are its issuers, up to the root."""

    chain: tuple[x509.Certificate, ...]
    key: Private

    @property
    def pem(self) -> bytes:
        """All certificates of the chain."""
        return b"".join(map(pem, self.chain))

    def client(
        self, cn: str, public: ec.EllipticCurvePublicKey, now: float, life: timedelta, *, o: str = "", ou: str = ""
    ) -> Signed:
        """Certify that who has the key to `public` is `cn`, of the fleet `o` and the group `ou`."""
        return self._sign(name(cn, o, ou), public, now, life, ExtendedKeyUsageOID.CLIENT_AUTH)

    def server(self, hosts: tuple[str, ...], public: ec.EllipticCurvePublicKey, now: float) -> Signed:
        """Certify a broker by all its names and addresses."""
        return self._sign(name(hosts[0][:64]), public, now, SERVER, ExtendedKeyUsageOID.SERVER_AUTH, hosts)

    def crl(self, revoked: list[tuple[str, float]], now: float, before: bytes = b"") -> bytes:
        """Return the list of revoked certificates, by serial number and time. Good for as long as the authority is.

        A broker that finds its list out of date lets nobody in any more, so this one is never to be renewed. It begins
        a second after the list `before` at least: mosquitto keeps all lists that it has read, and goes by the latest.
        """
        issuer, begins = self.chain[0], _begins(now)
        if before:
            begins = max(begins, _listed(before) + timedelta(seconds=1))
        found = x509.CertificateRevocationListBuilder(issuer.subject).last_update(begins)
        found = found.next_update(issuer.not_valid_after_utc)
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(_time(at))
            found = found.add_revoked_certificate(entry.build())
        known = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        number = x509.CRLNumber(int(now * 1000))
        listed = found.add_extension(known, critical=False).add_extension(number, critical=False)
        return listed.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _sign(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        now: float,
        life: timedelta,
        usage: x509.ObjectIdentifier,
        hosts: tuple[str, ...] = (),
    ) -> Signed:
        issuer, serial = self.chain[0], x509.random_serial_number()
        ends = min(_time(now) + life, issuer.not_valid_after_utc).replace(microsecond=0)
        built = x509.CertificateBuilder(issuer.subject, subject, public, serial, _begins(now), ends)
        made = extended(built, public, self.key.public_key(), usage, hosts).sign(self.key, hashes.SHA256())
        return Signed(f"{serial:x}", pem(made), ends.timestamp())


def made(fleet: str, now: float) -> Authority:
    """Return a new authority for a fleet."""
    key, subject = new_key(), name(f"fedfleet {fleet} authority")
    public, serial = key.public_key(), x509.random_serial_number()
    ends = _time(now) + AUTHORITY
    built = x509.CertificateBuilder(subject, subject, public, serial, _begins(now), ends.replace(microsecond=0))
    return Authority((extended(built, public, public, None).sign(key, hashes.SHA256()),), key)


def read(chain: Path, key: Path, now: float) -> Authority:
    """Return the authority of these two files; raises SettingsError where it cannot sign for a fleet, and says why."""
    require_clock(now)
    found = Authority(_certificates(chain), private(key))
    issuer = found.chain[0]
    if _bytes(issuer.public_key()) != _bytes(found.key.public_key()):
        raise SettingsError(
            f"{key} is not the key of the first certificate in {chain}; name the two that belong together"
        )
    if not _may_sign(issuer):
        raise SettingsError(f"{chain}: its first certificate is no authority's (CA, keyCertSign and cRLSign)")
    for each in found.chain:
        if each.not_valid_after_utc <= _time(now):
            raise SettingsError(f"{chain}: {_named(each)} expired on {each.not_valid_after_utc:%Y-%m-%d}; renew it")
        if each.not_valid_before_utc > _time(now):
            began = f"{each.not_valid_before_utc:%Y-%m-%d}"
            raise SettingsError(f"{chain}: {_named(each)} begins on {began}, and the clock shows {_time(now):%Y-%m-%d}")
    _require_whole(chain, found.chain)
    return found


def of(pki: Path, now: float) -> Authority:
    """Return the authority of a folder. Raises SettingsError."""
    return read(pki / folder.CA, pki / folder.CA_KEY, now)


def require_clock(now: float) -> None:
    """Raise SettingsError where the clock cannot be right."""
    if now < CLOCK_SET:
        raise SettingsError(f"the clock shows {_time(now):%Y-%m-%d}; set it before certificates are made")


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new EC P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Private) -> bytes:
    """Return a private key as PKCS#8, PEM, without a passphrase."""
    way = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*way)


def private(path: Path) -> Private:
    """Return the private key in a file; raises SettingsError."""
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except TypeError:
        raise SettingsError(f"{path} has a passphrase; take it off by `openssl pkey -in {path} -out ...`") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{path} must hold a private key in PEM") from None
    if not isinstance(found, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise SettingsError(f"{path}: a key must be EC or RSA")
    return found


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate's PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _begins(now: float) -> datetime:
    return _time(now - BACKDATED).replace(microsecond=0)


def _listed(crl: bytes) -> datetime:
    """Return when a list of revoked certificates begins; the epoch for one that is damaged."""
    try:
        return x509.load_pem_x509_crl(crl).last_update_utc
    except ValueError:
        return _time(0)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _bytes(key: object) -> bytes:
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _named(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string()[:80]}"


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"{path} must hold certificates in PEM") from None
    if not isinstance(found[0].public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise SettingsError(f"{path}: an authority's key must be EC or RSA")
    return tuple(found)


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return basic.ca and usage.key_cert_sign and usage.crl_sign


def _require_whole(path: Path, chain: tuple[x509.Certificate, ...]) -> None:
    """Raise SettingsError unless each certificate is issued by the next one, and the last by itself."""
    for certificate, issuer in zip(chain, (*chain[1:], chain[-1])):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise SettingsError(
                f"{path} must hold the authority's certificate, then its issuers up to the root"
            ) from None
