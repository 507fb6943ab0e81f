"""The authority's folder and what is in it, one of one's own brought along, and what cannot be one."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates import Authority as Own
from certificates import needs_openssl, openssl
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from identities import FLEET, claim, made, mode

from fedfleet.cloud.identity import authority, folder, opening, revocation
from fedfleet.cloud.identity.claims import Terms
from fedfleet.cloud.identity.folder import Fleet
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.wire.errors import FedfleetError, SettingsError, StoreError

pytestmark = needs_openssl
NOW = time.time()
YEAR = timedelta(days=365)
KEYS = {"ca.key", "broker.key", "cloud.key", "enrol.key", "operator.key"}
OPEN = {"ca.pem", "crl.pem", "broker.pem", "cloud.pem", "enrol.pem", "operator.pem", "fleet.toml", "identity.sqlite"}
FLEET_OF = Fleet(FLEET, ("mqtt.example.com", "192.168.1.5"))


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verified(pki: Path, name: str, purpose: str, *more: str) -> str:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(pki / "ca.pem"), *more]
    ended = subprocess.run([*command, str(pki / name)], capture_output=True, text=True, check=False)
    return "OK" if ended.returncode == 0 else ended.stderr


def test_the_folder_has_what_the_page_lists_and_keys_are_for_their_owner(tmp_path: Path) -> None:
    pki = made(tmp_path / "pki")
    assert {path.name for path in pki.iterdir()} == KEYS | OPEN
    assert {path.name for path in pki.iterdir() if mode(path) == 0o600} == KEYS
    assert folder.read(pki) == Fleet(FLEET, ("127.0.0.1", "localhost"), 8883)
    assert [path.name for path in tmp_path.iterdir()] == ["pki"]


def test_certificates_are_what_they_are_for(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    opening.make(pki, FLEET_OF, NOW)
    names = certificate(pki / "broker.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mqtt.example.com"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.168.1.5"]
    assert verified(pki, "broker.pem", "sslserver", "-verify_hostname", "mqtt.example.com") == "OK"
    assert "hostname mismatch" in verified(pki, "broker.pem", "sslserver", "-verify_hostname", "else.example.com")
    assert verified(pki, "broker.pem", "sslclient") != "OK"
    for role in ("cloud", "enrol", "operator"):
        assert verified(pki, f"{role}.pem", "sslclient", "-crl_check", "-CRLfile", str(pki / "crl.pem")) == "OK"
        assert verified(pki, f"{role}.pem", "sslserver") != "OK"
        assert certificate(pki / f"{role}.pem").subject.rfc4514_string() == f"CN={FLEET}-{role},O={FLEET}"
    for name in ("ca.pem", "broker.pem", "cloud.pem"):
        found = certificate(pki / name)
        public = found.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert public.curve.name == "secp256r1"
        assert found.signature_hash_algorithm is not None
        assert found.signature_hash_algorithm.name == "sha256"


def test_all_begin_a_year_before_and_last_as_long_as_they_should(tmp_path: Path) -> None:
    pki, now = made(tmp_path / "pki"), datetime.now(UTC)
    for name, years in (("ca.pem", 20), ("broker.pem", 5), ("cloud.pem", 5)):
        found = certificate(pki / name)
        assert abs(found.not_valid_before_utc - (now - YEAR)) < timedelta(minutes=10)
        assert abs(found.not_valid_after_utc - (now + years * YEAR)) < timedelta(minutes=10)
    crl = x509.load_pem_x509_crl((pki / "crl.pem").read_bytes())
    assert crl.next_update_utc == certificate(pki / "ca.pem").not_valid_after_utc
    assert crl.last_update_utc < now - timedelta(days=364)


def test_a_claim_is_one_file_that_tls_takes_as_authority_certificate_and_key(tmp_path: Path) -> None:
    pki, path = made(tmp_path / "pki"), tmp_path / "claim.pem"
    ((name, found),) = opening.claims(pki, Terms("line-3", "pump-1", 7), path, 1, NOW)
    assert found == path
    assert mode(path) == 0o600
    head = path.read_text().partition("-----BEGIN")[0].splitlines()
    broker = "# broker = 127.0.0.1:8883"
    assert head == ["# fedfleet claim", f"# fleet = {FLEET}", "# group = line-3", broker, "# device = pump-1"]
    context = ssl.create_default_context(cafile=str(path))
    context.load_cert_chain(path, path)
    first = certificate(path)
    assert first.subject.rfc4514_string() == f"CN={name},OU=line-3,O={FLEET}"
    assert abs(first.not_valid_after_utc.timestamp() - NOW - 7 * 86_400) < 600


def test_many_claims_go_into_a_folder_each_for_itself(tmp_path: Path) -> None:
    pki = made(tmp_path / "pki")
    found = opening.claims(pki, Terms("line-3"), tmp_path / "claims", 5, NOW)
    assert sorted(path.name for path in (tmp_path / "claims").iterdir()) == sorted(f"{name}.pem" for name, _ in found)
    assert len({path.read_bytes() for _, path in found}) == 5


@pytest.mark.parametrize(
    ("terms", "count", "text"),
    [
        (Terms("Line"), 1, "group 'Line'"),
        (Terms("line-3", "P"), 1, "device 'P'"),
        (Terms("line-3", "claim-x"), 1, "device 'claim-x'"),
        (Terms("line-3", f"{FLEET}-cloud"), 1, "cloud's own"),
        (Terms("line-3", days=0), 1, "days must be above 0"),
        (Terms("line-3", days=1e9), 1, "at most 3650"),
        (Terms("line-3", "pump-1"), 2, "several claims for one device"),
    ],
)
def test_claims_that_cannot_be(tmp_path: Path, terms: Terms, count: int, text: str) -> None:
    pki = made(tmp_path / "pki")
    with pytest.raises(SettingsError, match=text):
        opening.claims(pki, terms, tmp_path / "out", count, NOW)
    assert not (tmp_path / "out").exists()


def test_a_claim_is_never_written_over(tmp_path: Path) -> None:
    pki, path = made(tmp_path / "pki"), tmp_path / "claim.pem"
    claim(pki, path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is there already"):
        claim(pki, path)
    assert path.read_bytes() == before


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    pki = made(tmp_path / "pki")
    before = {path.name: path.read_bytes() for path in pki.iterdir()}
    with pytest.raises(StoreError, match="is there already, and nothing in it was touched"):
        made(pki)
    assert {path.name: path.read_bytes() for path in pki.iterdir()} == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is there already"):
        made(tmp_path / "file")


def test_what_a_killed_one_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".pki.tmp").mkdir()
    (tmp_path / ".pki.tmp" / "ca.key").write_text("half")
    (tmp_path / "pki").mkdir()  # an empty folder will do
    pki = made(tmp_path / "pki")
    assert [path.name for path in tmp_path.iterdir()] == ["pki"]
    assert authority.of(pki, NOW)


def brought(own: Own, pki: Path) -> None:
    opening.make(pki, FLEET_OF, time.time(), (own.ca, own.folder / "ca.key"))


def test_an_authority_of_ones_own_signs_for_the_fleet(tmp_path: Path) -> None:
    own = Own(tmp_path / "own")
    brought(own, tmp_path / "pki")
    pki = tmp_path / "pki"
    assert (pki / "ca.pem").read_bytes() == own.ca.read_bytes()
    assert verified(pki, "broker.pem", "sslserver") == "OK"
    assert verified(pki, "cloud.pem", "sslclient", "-crl_check", "-CRLfile", str(pki / "crl.pem")) == "OK"
    assert certificate(pki / "broker.pem").not_valid_after_utc == certificate(own.ca).not_valid_after_utc
    assert claim(pki, tmp_path / "claim.pem").is_file()


def intermediate(folder: Path) -> tuple[Path, Path]:
    """An authority with an RSA key that another one has signed; its chain, and its key."""
    root = Own(folder / "root")
    key, csr, pem, conf = (folder / f"sub.{kind}" for kind in ("key", "csr", "pem", "conf"))
    conf.write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
                    "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")  # fmt: skip
    openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=plant", "-keyout", key, "-out", csr)
    openssl("x509", "-req", "-in", csr, "-CA", root.ca, "-CAkey", root.folder / "ca.key", "-days", "9",
            "-extfile", conf, "-out", pem)  # fmt: skip
    chain = folder / "chain.pem"
    chain.write_bytes(pem.read_bytes() + root.ca.read_bytes())
    return chain, key


def test_one_that_another_has_signed_brings_its_chain(tmp_path: Path) -> None:
    chain, key = intermediate(tmp_path)
    opening.make(tmp_path / "pki", FLEET_OF, time.time(), (chain, key))
    pki = tmp_path / "pki"
    assert verified(pki, "cloud.pem", "sslclient", "-crl_check", "-CRLfile", str(pki / "crl.pem")) == "OK"
    assert claim(pki, tmp_path / "claim.pem").read_text().count("BEGIN CERTIFICATE") == 3
    assert len(x509.load_pem_x509_certificates((pki / "broker.pem").read_bytes())) == 3


def broken(base: Path, how: str) -> tuple[Path, Path]:
    own, other = Own(base / "own"), Own(base / "other")
    key = own.folder / "ca.key"
    if how == "another key":
        return own.ca, other.folder / "ca.key"
    if how == "no authority":
        return own.sign("device")
    if how == "missing":
        return base / "nothing.pem", key
    if how == "no certificate":
        return key, key
    if how == "no key":
        return own.ca, own.ca
    if how == "passphrase":
        openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", base / "locked.key")
        return own.ca, base / "locked.key"
    if how == "half a chain":
        chain, sub = intermediate(base)
        chain.write_bytes(b"".join(chain.read_bytes().partition(b"-----END CERTIFICATE-----\n")[:2]))
        return chain, sub
    names = ("-subj", "/CN=ed", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-x509", "-newkey", "ed25519", "-nodes", *names, "-keyout", base / "ed.key", "-out", base / "ed.pem")
    return base / "ed.pem", base / "ed.key"


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("another key", "is not the key of the first certificate"),
        ("no authority", "is no authority's"),
        ("missing", "cannot be read: No such file"),
        ("no certificate", "must hold certificates in PEM"),
        ("no key", "must hold a private key in PEM"),
        ("passphrase", "has a passphrase; take it off"),
        ("half a chain", "then its issuers up to the root"),
        ("ed25519", "must be EC or RSA"),
    ],
)
def test_what_cannot_be_an_authority_says_why_and_leaves_nothing(tmp_path: Path, how: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        opening.make(tmp_path / "pki", FLEET_OF, time.time() + 60, broken(tmp_path, how))
    assert not (tmp_path / "pki").exists()
    assert not (tmp_path / ".pki.tmp").exists()


def test_an_authority_that_has_expired_or_not_begun_says_when(tmp_path: Path) -> None:
    pki, late = made(tmp_path / "pki"), NOW + 21 * YEAR.total_seconds()
    with pytest.raises(
        SettingsError, match=r"ca.pem: the certificate of CN=fedfleet pumps authority expired on 20\d\d-"
    ):
        authority.of(pki, late)
    with pytest.raises(SettingsError, match=r"begins on 20\d\d-\d\d-\d\d, and the clock shows 2024-06-01"):
        authority.of(pki, datetime(2024, 6, 1, tzinfo=UTC).timestamp())


@pytest.mark.parametrize("year", [1970, 2023])
def test_a_clock_that_cannot_be_right_is_named(tmp_path: Path, year: int) -> None:
    early = datetime(year, 1, 1, tzinfo=UTC).timestamp()
    with pytest.raises(SettingsError, match=f"the clock shows {year}-01-01; set it before certificates are made"):
        opening.make(tmp_path / "pki", FLEET_OF, early)
    pki = made(tmp_path / "other")
    with pytest.raises(SettingsError, match=f"the clock shows {year}"):
        opening.claims(pki, Terms("line-3"), tmp_path / "claim.pem", 1, early)


def test_a_list_holds_all_that_was_revoked_by_serial(tmp_path: Path) -> None:
    pki = made(tmp_path / "pki")
    name = opening.claims(pki, Terms("line-3"), tmp_path / "claim.pem", 1, NOW)[0][0]
    (pki / "acl").write_text("user pumps-cloud\ntopic readwrite #\n")
    found = revocation.revoke(pki, name, NOW, "lost")
    serial = certificate(tmp_path / "claim.pem").serial_number
    assert found == (name, (f"{serial:x}",), True)
    crl = x509.load_pem_x509_crl((pki / "crl.pem").read_bytes())
    assert [each.serial_number for each in crl] == [serial]
    acl = (pki / "acl").read_text()
    assert acl.startswith("user pumps-cloud\ntopic readwrite #\n")
    assert f"\nuser {name}\ntopic deny #\n" in acl
    assert revocation.revoke(pki, name, NOW).serials == ()  # again: the same names
    assert (pki / "acl").read_text() == acl
    later = x509.load_pem_x509_crl((pki / "crl.pem").read_bytes())
    assert [each.serial_number for each in later] == [serial]
    assert later.last_update_utc > crl.last_update_utc  # within a second: mosquitto must see which one is newer
    (pki / "crl.pem").write_bytes(b"damaged")
    revocation.revoke(pki, name, NOW)
    assert len(list(x509.load_pem_x509_crl((pki / "crl.pem").read_bytes()))) == 1
    ledger = Ledger(pki)
    assert [each.reason for each in ledger.certificates()] == ["lost"]
    ledger.close()


@pytest.mark.parametrize(("name", "text"), [("pump-9", "pump-9 has no certificate"), ("a b", "device 'a b' must be")])
def test_nobody_is_revoked_who_is_not_there(tmp_path: Path, name: str, text: str) -> None:
    pki = made(tmp_path / "pki")
    before = (pki / "crl.pem").read_bytes()
    with pytest.raises(SettingsError, match=text):
        revocation.revoke(pki, name, NOW)
    assert (pki / "crl.pem").read_bytes() == before


@pytest.mark.parametrize("name", ["fleet.toml", "identity.sqlite", "ca.key", "ca.pem"])
def test_a_folder_that_lacks_a_file_is_named(tmp_path: Path, name: str) -> None:
    pki = made(tmp_path / "pki")
    (pki / name).unlink()
    with pytest.raises(FedfleetError, match=str(pki)):
        claim(pki, tmp_path / "claim.pem")


def test_a_ledger_of_a_newer_fedfleet_is_not_touched(tmp_path: Path) -> None:
    import sqlite3

    pki = made(tmp_path / "pki")
    database = sqlite3.connect(pki / "identity.sqlite")
    database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(StoreError, match="has schema 9, this fedfleet knows 1"):
        Ledger(pki)
    shutil.copy(pki / "ca.pem", pki / "identity.sqlite")
    with pytest.raises(StoreError, match="not a database"):
        Ledger(pki)
