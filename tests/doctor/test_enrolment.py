"""A device that is not enrolled yet: its claim is looked at in the certificate's place, and serves as one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from brokers import needs_mosquitto
from certificates import Authority, needs_openssl
from fleets import Whole, whole
from identities import claim
from patients import Patient, diagnoses, examined, healthy

pytestmark = [needs_mosquitto, needs_openssl]


@pytest.fixture
def fleet(tmp_path: Path) -> Whole:
    return whole(tmp_path)


@pytest.fixture
def new(fleet: Whole, authority: Authority, tmp_path: Path) -> Patient:
    """A device that has a claim, and nothing else."""
    (tmp_path / "device").mkdir()
    device = healthy(tmp_path / "device", authority)
    device.more = '[enrol]\nclaim = "claim.pem"\n'
    own = "state/identity.pem"
    device.broker = {"host": "127.0.0.1", "port": fleet.port, "tls": True, "certificate": own, "key": own}
    device.listens = False
    claim(fleet.pki, device.folder / "claim.pem")
    return device


def test_a_claim_that_is_good_leads_to_the_broker(new: Patient, fleet: Whole) -> None:
    with fleet.up(), new.up():
        code, checks = examined(new)
    assert (code, diagnoses(checks)) == (0, [])
    assert checks["claim"]["seen"].startswith("claim-")
    assert checks["tls"]["outcome"] == "ok"
    assert "not enrolled yet" in checks["mqtt"]["seen"]


def test_with_neither_claim_nor_certificate_a_new_claim_is_the_fix(new: Patient, fleet: Whole) -> None:
    (new.folder / "claim.pem").unlink()
    with fleet.up(), new.up():
        code, checks = examined(new)
    assert (code, diagnoses(checks)) == (2, [("claim", "claim-missing")])
    assert "fedfleet enrol claim" in checks["claim"]["fix"]


def test_half_a_claim(new: Patient, fleet: Whole) -> None:
    path = new.folder / "claim.pem"
    path.write_text(path.read_text().partition("-----BEGIN")[0])
    with fleet.up(), new.up():
        assert diagnoses(examined(new)[1]) == [("claim", "claim-broken")]


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_a_claim_that_was_left_lying(new: Patient, fleet: Whole) -> None:
    new.prefix = ["faketime", "-f", "+3d"]
    with fleet.up(), new.up():
        assert diagnoses(examined(new)[1]) == [("claim", "claim-expired")]
