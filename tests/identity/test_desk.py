"""The desk and devices at a hub in this process: many at once, odd requests, keys and files as `openssl` makes them."""

from __future__ import annotations

import base64
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import needs_openssl, openssl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from identities import FLEET, claim, made, mode

from fedfleet.cloud.identity import authority, claims, revocation
from fedfleet.cloud.identity.desk import LOOK, Desk
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.edge.enrol import Asking, Claim
from fedfleet.edge.identity import Identity
from fedfleet.wire.enrolment import Enrol, Enrolled, open_enrolled, pack_enrol
from fedfleet.wire.errors import FrameError
from fedfleet.wire.loopback import Hub
from fedfleet.wire.topics import Topics

pytestmark = needs_openssl
TOPICS = Topics(FLEET)


class Office:
    """A desk at a hub."""

    def __init__(self, base: Path) -> None:
        self.base, self.hub, self.pki = base, Hub(), made(base / "pki")
        self.ledger, self.now, self.returned = Ledger(self.pki), time.time(), 0
        signer = authority.of(self.pki, self.now)
        self.desk = Desk(FLEET, signer, self.ledger, self.hub.connect(), lambda: self.now, returned=self.back)
        self.device = self.hub.connect()
        self.device.subscribe(TOPICS.answer("+"))

    def back(self) -> None:
        self.returned += 1

    def claim(self, name: str = "", **terms: object) -> str:
        return Claim(claim(self.pki, self.base / f"{name or os.urandom(4).hex()}.pem", **terms)).name  # type: ignore[arg-type]

    def ask(self, by: str, device: str, csr: bytes, group: str = "") -> Enrolled:
        """What the desk says to a request."""
        self.device.publish(TOPICS.request(by), pack_enrol(Enrol(device, group, csr)))
        self.desk.step(0)
        ((topic, payload),) = self.device.deliveries(0)
        assert topic == TOPICS.answer(by)
        return open_enrolled(payload)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    found = Office(tmp_path)
    yield found
    found.ledger.close()


def request(folder: Path, subject: str, *more: str, curve: str = "P-256", config: str = "") -> bytes:
    """A signing request as somebody makes it who does not use our agent."""
    key, out, conf = folder / "own.key", folder / "own.csr", folder / "own.conf"
    conf.write_text("[req]\ndistinguished_name = dn\n[dn]\n" + config)
    kind = ("rsa:2048",) if curve == "RSA" else ("ec", "-pkeyopt", f"ec_paramgen_curve:{curve}")
    openssl("req", "-new", "-newkey", *kind, "-nodes", "-config", conf, "-utf8", "-subj", subject, *more,
            "-keyout", key, "-out", out)  # fmt: skip
    return out.read_bytes()


def test_a_hundred_devices_at_once_have_a_hundred_names_and_keys(office: Office) -> None:
    asking, buses, where = {}, {}, {}
    for number in range(100):
        name, by = f"pump-{number}", office.claim(f"claim-{number}")
        identity = Identity(office.base / f"{name}.pem", name)
        trusted = str(office.base / f"claim-{number}.pem")
        asking[name] = Asking(identity, TOPICS, by, "line-3", trusted, lambda: office.now)
        buses[name], where[name] = office.hub.connect(), identity
        buses[name].subscribe(asking[name].answers)
    for name, one in asking.items():
        assert not one.step(buses[name], [])
    office.desk.step(0)
    for name, one in asking.items():
        assert one.step(buses[name], [payload for _, payload in buses[name].deliveries(0)])
    found = [x509.load_pem_x509_certificate(identity.path.read_bytes()) for identity in where.values()]
    names = {each.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value for each in found}
    assert names == set(asking)
    assert (
        len({each.serial_number for each in found})
        == len({identity.known().public for identity in where.values()})
        == 100
    )
    assert {mode(identity.path) for identity in where.values()} == {0o600}
    assert len([each for each in office.ledger.certificates() if not each.name.startswith("claim-")]) == 100


def test_nothing_is_taken_over_but_name_and_key(office: Office) -> None:
    more = (
        "-addext",
        "basicConstraints=CA:TRUE",
        "-addext",
        "extendedKeyUsage=serverAuth",
        "-addext",
        "subjectAltName=DNS:x",
    )
    csr = request(office.base, "/O=another/OU=admins/CN=pump-1", *more)
    found = x509.load_pem_x509_certificate(office.ask(office.claim(), "pump-1", csr).chain)
    assert found.subject.rfc4514_string() == "CN=pump-1,OU=line-3,O=pumps"
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    uses = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        found.extensions.get_extension_for_class(x509.SubjectAlternativeName)


@pytest.mark.parametrize(
    "subject",
    [
        "/CN=+", "/CN=#", "/CN=pump-1\\/x", "/CN=pump-1/CN=pump-2", "/CN=Pump-1", "/CN=pump-1 ", "/O=pump-1", "/CN=pümp-1",
        "/CN=pump‑1", "/CN=pump-1\x7f", "/CN=claim-0123456789ab", f"/CN={FLEET}-cloud", "/CN=pump-10", "/CN=" + "p" * 64,
    ],
)  # fmt: skip
def test_a_request_for_another_name_is_refused(office: Office, subject: str) -> None:
    answer = office.ask(office.claim(), "pump-1", request(office.base, subject))
    assert (answer.outcome, answer.chain) == ("refused", b"")
    assert office.ledger.live("pump-1", office.now) == []


@pytest.mark.parametrize("cn", ["pump-1\0", "\0", "p" * 300, "pump-1\n", "pump-1\u200b", "+/#", "pump-1"])
def test_names_that_no_command_makes_are_refused(office: Office, cn: str) -> None:
    key = authority.new_key()
    with warnings.catch_warnings(action="ignore"):  # cryptography's own, of what is too long
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn, _validate=False)])
    csr = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    answer = office.ask(office.claim(), "pump-1", csr.public_bytes(serialization.Encoding.PEM))
    assert answer.outcome == ("issued" if cn == "pump-1" else "refused"), answer
    assert answer.outcome == "issued" or "signed for" in answer.reason


@pytest.mark.parametrize("name", ["+", "#", "a/b", "a\0", "p" * 300, "pümp", "", "claim x"])
def test_a_frame_for_such_a_name_is_dropped(office: Office, name: str) -> None:
    from fedfleet.wire.frames import pack

    by, csr = office.claim(), request(office.base, "/CN=pump-1")
    office.device.publish(TOPICS.request(by), pack({"kind": "enrol", "device": name}, csr))
    office.desk.step(0)
    assert office.device.deliveries(0) == []


@pytest.mark.parametrize(
    "name", ["claim-x", "claim-0123456789ab", f"{FLEET}-cloud", f"{FLEET}-enrol", f"{FLEET}-operator"]
)
def test_names_of_our_own_are_given_to_nobody(office: Office, name: str) -> None:
    answer = office.ask(office.claim(), name, request(office.base, f"/CN={name}"))
    assert answer == Enrolled("refused", f"{name} is a name that no device may have")


@pytest.mark.parametrize(
    ("curve", "text"), [("RSA", "key must be EC P-256"), ("P-384", "key must be EC P-256"), ("secp256k1", "EC P-256")]
)
def test_other_keys_are_refused(office: Office, curve: str, text: str) -> None:
    answer = office.ask(office.claim(), "pump-1", request(office.base, "/CN=pump-1", curve=curve))
    assert answer.outcome == "refused"
    assert text in answer.reason


def test_a_request_that_its_key_has_not_signed_is_refused(office: Office) -> None:
    mine, other = request(office.base, "/CN=pump-1"), request(office.base, "/CN=pump-2")
    der = [subprocess.run(["openssl", "req", "-outform", "DER"], input=csr, capture_output=True, check=True).stdout
           for csr in (mine, other)]  # fmt: skip
    key = [each[each.index(b"\x03\x42\x00\x04") :][:68] for each in der]
    assert len(set(key)) == 2
    forged = subprocess.run(["openssl", "base64"], input=der[0].replace(*key), capture_output=True, check=True).stdout
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + forged + b"-----END CERTIFICATE REQUEST-----\n"
    answer = office.ask(office.claim(), "pump-1", pem)
    assert answer == Enrolled("refused", "the request is not signed by its own key")


@pytest.mark.parametrize(
    "csr", [b"x", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_what_is_no_request_is_refused(office: Office, csr: bytes) -> None:
    assert office.ask(office.claim(), "pump-1", csr) == Enrolled("refused", "this is no signing request in PEM")


def test_what_stands_around_a_request_is_not_kept(office: Office) -> None:
    csr, by = request(office.base, "/CN=pump-1"), office.claim(accepts=False)
    assert office.ask(by, "pump-1", b"\xff\xfe private \n" + csr).outcome == "pending"
    found = office.ledger.claim(by)
    assert found is not None
    assert found.csr.startswith("-----BEGIN CERTIFICATE REQUEST-----\n")
    claims.settle(office.ledger, by, "accepted")
    office.now += LOOK
    office.desk.step(0)
    ((_, payload),) = office.device.deliveries(0)
    assert open_enrolled(payload).outcome == "issued"


def test_any_byte_of_a_request_may_be_another(office: Office) -> None:
    """Whatever is in it, the desk lives, and no key is certified whose owner has not signed for it."""
    whole = x509.load_pem_x509_csr(request(office.base, "/CN=pump-1"))
    der, by = whole.public_bytes(serialization.Encoding.DER), office.claim()
    for place in range(len(der)):
        for bit in (1, 0x80):
            changed = bytes([*der[:place], der[place] ^ bit, *der[place + 1 :]])
            pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(changed)
            answer = office.ask(by, "pump-1", pem + b"-----END CERTIFICATE REQUEST-----\n")
            if answer.outcome == "issued":  # a signature may be written in more ways than one
                assert x509.load_pem_x509_certificate(answer.chain).public_key() == whole.public_key(), place
            else:
                assert answer.outcome == "refused", place


def test_the_same_request_is_answered_the_same_bytes(office: Office) -> None:
    by, csr = office.claim(), request(office.base, "/CN=pump-1")
    first = office.ask(by, "pump-1", csr)
    assert first.outcome == "issued"
    assert office.ask(by, "pump-1", csr) == first
    again = (office.base / "again.csr").resolve()
    openssl("req", "-new", "-key", office.base / "own.key", "-subj", "/CN=pump-1", "-out", again)
    assert again.read_bytes() != csr
    assert office.ask(by, "pump-1", again.read_bytes()) == first


def test_a_used_claim_serves_no_other_key(office: Office) -> None:
    by = office.claim()
    assert office.ask(by, "pump-1", request(office.base, "/CN=pump-1")).outcome == "issued"
    for name in ("pump-1", "pump-2"):
        answer = office.ask(by, name, request(office.base, f"/CN={name}"))
        assert (answer.outcome, answer.reason[:23]) == ("refused", "the claim has been used")


def test_a_request_that_was_overheard_is_of_no_use_with_another_claim(office: Office) -> None:
    csr = request(office.base, "/CN=pump-1")
    office.ask(office.claim(), "pump-1", csr)
    assert "certified before" in office.ask(office.claim(), "pump-1", csr).reason
    revocation.revoke(office.pki, "pump-1", office.now)
    assert "certified before" in office.ask(office.claim(), "pump-1", csr).reason


def test_a_claim_with_its_own_key_gets_no_device(office: Office) -> None:
    by = office.claim("own")
    key, csr = office.base / "own.pem", office.base / "claims.csr"
    openssl("req", "-new", "-key", key, "-subj", "/CN=pump-1", "-out", csr)
    assert "certified before" in office.ask(by, "pump-1", csr.read_bytes()).reason


def test_expired_and_foreign_claims_and_other_groups(office: Office) -> None:
    csr = request(office.base, "/CN=pump-1")
    by = office.claim(days=1.0)
    assert "line-3, not line-4" in office.ask(by, "pump-1", csr, "line-4").reason
    assert "unknown" in office.ask("claim-0123456789ab", "pump-1", csr).reason
    office.now += 86_401
    assert "expired" in office.ask(by, "pump-1", csr).reason


def test_two_claims_for_one_name_and_the_operator_says_which(office: Office) -> None:
    first, second = office.claim(accepts=False), office.claim(accepts=False)
    for by in (first, second):
        assert office.ask(by, "pump-1", request(office.base, "/CN=pump-1")).outcome == "pending"
    with pytest.raises(Exception, match="asked for by 2 claims"):
        claims.settle(office.ledger, "pump-1", "accepted")
    claims.settle(office.ledger, second, "accepted")
    office.now += LOOK
    office.desk.step(0)
    assert [(topic, open_enrolled(payload).outcome) for topic, payload in office.device.deliveries(0)] == [
        (TOPICS.answer(second), "issued")
    ]
    claims.settle(office.ledger, first, "accepted")
    office.now += LOOK
    office.desk.step(0)
    ((_, payload),) = office.device.deliveries(0)
    assert "pump-1 has a certificate" in open_enrolled(payload).reason
    office.now += LOOK
    office.desk.step(0)
    assert office.device.deliveries(0) == []  # told once
    assert [each.state for each in office.ledger.claims()] == ["issued", "refused"]


def test_a_device_that_comes_back_is_taken_off_the_brokers_list(office: Office) -> None:
    assert office.returned == 1  # at the start
    office.ask(office.claim(), "pump-1", request(office.base, "/CN=pump-1"))
    revocation.revoke(office.pki, "pump-1", office.now)
    assert office.returned == 1
    assert office.ask(office.claim(), "pump-1", request(office.base, "/CN=pump-1")).outcome == "issued"
    assert office.returned == 2


@pytest.mark.parametrize("kind", ["key", "name", "authority"])
def test_a_device_takes_no_certificate_that_does_not_fit(office: Office, tmp_path: Path, kind: str) -> None:
    mine, trusted = Identity(tmp_path / "identity.pem", "pump-1"), claim(office.pki, tmp_path / "c.pem")
    csr = mine.request("claim-0123456789ab")
    if kind == "authority":
        other = Office(tmp_path / "other")
        chain = other.ask(other.claim(), "pump-1", csr).chain
        other.ledger.close()
    else:
        named = "pump-2" if kind == "name" else "pump-1"
        chain = office.ask(office.claim(), named, request(office.base, f"/CN={named}")).chain
    with pytest.raises(FrameError):
        mine.take(chain, str(trusted), "claim-0123456789ab")
    assert not mine.path.exists()
