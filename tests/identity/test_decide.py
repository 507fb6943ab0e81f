"""Who is granted a certificate: each rule by itself, in a ledger on disk, without a broker and without a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfleet.cloud.identity.decide import MAX_LIVE, Asked, Decision, decide
from fedfleet.cloud.identity.ledger import Certificate, Claim, Ledger

NOW = 1_800_000_000.0
CLAIM = "claim-0123456789ab"
OTHER = "claim-ffffffffffff"
ASKED = Asked("pumps", CLAIM, "pump-1", "line-3", "pump-1", "a" * 64)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path, new=True)
    found.add(Claim(CLAIM, "line-3", "", False, NOW + 100))
    found.add(Claim(OTHER, "line-3", "", True, NOW + 100))
    yield found
    found.close()


def certify(ledger: Ledger, serial: str, device: str, key: str, claim: str = CLAIM, ends: float = NOW + 50) -> None:
    ledger.certify(Certificate(serial, device, "line-3", claim, key, f"pem {serial}", NOW - 1, ends))


def decided(ledger: Ledger, now: float = NOW, **changes: str) -> Decision:
    asked = ASKED._replace(**changes)
    return decide(asked, ledger.claim(asked.by), ledger, now)


def test_a_first_request_waits_for_an_operator(ledger: Ledger) -> None:
    found = decided(ledger)
    assert (found.outcome, found.again) == ("pending", None)
    assert "fedfleet enrol accept" in found.reason


@pytest.mark.parametrize("way", ["the claim", "the operator", "the list"])
def test_three_ways_to_be_let_in(ledger: Ledger, way: str) -> None:
    if way == "the operator":
        ledger.ask(CLAIM, "pump-1", "a" * 64, "csr", NOW)
        ledger.settle(CLAIM, "accepted")
    elif way == "the list":
        ledger.allow("pump-1")
    assert decided(ledger, by=OTHER if way == "the claim" else CLAIM) == Decision("issued", "", "line-3")


def test_a_list_lets_nobody_in_by_another_name(ledger: Ledger) -> None:
    ledger.allow("pump-1")
    assert decided(ledger, device="pump-2", cn="pump-2").outcome == "pending"
    ledger.allow("pump-1", allowed=False)
    assert decided(ledger).outcome == "pending"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cn": "pump-2"}, "signed for 'pump-2', not pump-1"),
        ({"cn": "pump-1 "}, "signed for"),
        ({"device": "pumps-cloud", "cn": "pumps-cloud"}, "no device may have"),
        ({"device": CLAIM, "cn": CLAIM}, "no device may have"),
        ({"by": "claim-000000000000"}, "the claim is unknown"),
        ({"by": "claim-x"}, "claim-x may not ask for pump-1"),
        ({"by": "pump-2"}, "pump-2 may not ask for pump-1"),
        ({"by": "pump-1"}, "no certificate that holds"),
        ({"group": "line-4"}, "for group line-3, not line-4"),
    ],
)
def test_what_is_refused(ledger: Ledger, changes: dict[str, str], text: str) -> None:
    ledger.allow("pump-1")
    found = decided(ledger, **changes)
    assert found.outcome == "refused"
    assert text in found.reason


def test_a_request_without_a_group_takes_that_of_the_claim(ledger: Ledger) -> None:
    assert decided(ledger, by=OTHER, group="").group == "line-3"


def test_an_expired_claim_is_of_no_use(ledger: Ledger) -> None:
    assert decided(ledger, NOW + 99, by=OTHER).outcome == "issued"
    assert "expired" in decided(ledger, NOW + 100, by=OTHER).reason


def test_a_claim_for_one_device_is_for_no_other(ledger: Ledger) -> None:
    ledger.add(Claim("claim-aaaaaaaaaaaa", "line-3", "pump-9", True, NOW + 100))
    assert "for device pump-9" in decided(ledger, by="claim-aaaaaaaaaaaa").reason
    assert decided(ledger, by="claim-aaaaaaaaaaaa", device="pump-9", cn="pump-9").outcome == "issued"


def test_a_claim_serves_the_first_key_and_name_alone(ledger: Ledger) -> None:
    ledger.ask(CLAIM, "pump-1", "a" * 64, "csr", NOW)
    assert decided(ledger).outcome == "pending"
    assert "has been used" in decided(ledger, key="b" * 64).reason
    assert "has been used" in decided(ledger, device="pump-2", cn="pump-2").reason


def test_the_same_request_gets_the_same_certificate(ledger: Ledger) -> None:
    ledger.ask(CLAIM, "pump-1", "a" * 64, "csr", NOW)
    certify(ledger, "1", "pump-1", "a" * 64)
    ledger.settle(CLAIM, "issued")
    found = decided(ledger)
    assert found.outcome == "issued"
    assert found.again is not None
    assert found.again.pem == "pem 1"
    ledger.revoke("pump-1", NOW)
    assert decided(ledger).reason == "the certificate was revoked"


def test_a_key_that_was_certified_by_another_claim_is_refused(ledger: Ledger) -> None:
    certify(ledger, "1", "pump-1", "a" * 64)
    found = decided(ledger, by=OTHER)
    assert (found.outcome, found.reason) == ("refused", "this key was certified before; make a new one")
    assert decided(ledger, by=OTHER, device="pump-2", cn="pump-2").outcome == "refused"


def test_a_name_that_is_taken_is_refused_until_it_is_free(ledger: Ledger) -> None:
    certify(ledger, "1", "pump-1", "b" * 64, "claim-bbbbbbbbbbbb")
    assert "has a certificate; revoke that first" in decided(ledger, by=OTHER).reason
    assert decided(ledger, NOW + 50, by=OTHER).outcome == "issued"  # it has ended
    ledger.revoke("pump-1", NOW)
    assert decided(ledger, by=OTHER).outcome == "issued"


def test_what_an_operator_has_refused_stays_refused(ledger: Ledger) -> None:
    ledger.allow("pump-1")
    ledger.settle(CLAIM, "refused", "not ours")
    assert decided(ledger) == Decision("refused", "not ours")


def test_a_claim_that_was_revoked_is_of_no_use(ledger: Ledger) -> None:
    certify(ledger, "c", OTHER, "c" * 64, "")
    assert decided(ledger, by=OTHER).outcome == "issued"
    ledger.revoke(OTHER, NOW)
    assert decided(ledger, by=OTHER).reason == "the claim was revoked"


def test_a_device_renews_in_its_own_name_with_a_new_key(ledger: Ledger) -> None:
    certify(ledger, "1", "pump-1", "b" * 64)
    assert decided(ledger, by="pump-1") == Decision("issued", "", "line-3")
    assert "of group line-3, not line-4" in decided(ledger, by="pump-1", group="line-4").reason
    assert decided(ledger, by="pump-1", key="b" * 64).again is not None
    certify(ledger, "2", "pump-2", "a" * 64)
    assert "certified before" in decided(ledger, by="pump-1").reason


@pytest.mark.parametrize("how", ["revoked", "ended"])
def test_a_device_that_is_out_does_not_renew(ledger: Ledger, how: str) -> None:
    certify(ledger, "1", "pump-1", "b" * 64)
    if how == "revoked":
        ledger.revoke("pump-1", NOW)
    assert "no certificate that holds" in decided(ledger, NOW + 50 * (how == "ended"), by="pump-1").reason


def test_a_device_that_renews_for_ever_does_not_fill_the_ledger(ledger: Ledger) -> None:
    for number in range(MAX_LIVE):
        assert decided(ledger, by="pump-1").outcome == ("issued" if number else "refused")
        certify(ledger, str(number), "pump-1", str(number) * 64)
    assert f"has {MAX_LIVE} certificates" in decided(ledger, by="pump-1").reason


def test_who_is_revoked_is_shut_out_until_enrolled_anew(ledger: Ledger) -> None:
    certify(ledger, "1", "pump-1", "b" * 64)
    ledger.allow("pump-1")
    assert ledger.denied() == set()
    assert ledger.revoke("pump-1", NOW) == ["1"]
    assert ledger.revoke("pump-1", NOW + 1) == []
    assert ledger.denied() == {"pump-1"}
    assert ledger.allowed() == set()
    assert ledger.revoked() == [("1", NOW)]
    certify(ledger, "2", "pump-1", "c" * 64, OTHER)
    assert ledger.denied() == set()
