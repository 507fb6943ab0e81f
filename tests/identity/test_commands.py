"""`fedfleet pki` and `fedfleet enrol` as an operator uses them: what they print, write and refuse."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from brokers import needs_mosquitto
from certificates import Authority, needs_openssl
from commands import run
from identities import World, claim, made, world
from processes import environment, until

from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.edge.enrol import Asking, Claim
from fedfleet.edge.identity import Identity
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.topics import Topics

BROKER = ("--fleet", "pumps", "--broker", "mqtt.example.com, 192.168.1.5")


def pending(pki: Path, path: Path, name: str) -> str:
    """Let a device ask by a claim, as the desk notes it; returns the claim."""
    found, ledger = Claim(path).name, Ledger(pki)
    ledger.ask(found, name, "k" * 64, "csr", time.time())
    ledger.close()
    return found


def test_an_authority_is_made_and_shown(tmp_path: Path) -> None:
    pki = str(tmp_path / "pki")
    assert "keep" in run("pki", "init", pki, *BROKER)
    found = json.loads(run("pki", "show", pki, "--json"))
    hosts = ["mqtt.example.com", "192.168.1.5"]
    assert found == {"fleet": "pumps", "hosts": hosts, "port": 8883, "certificates": []}
    run("enrol", "claim", pki, "--group", "line-3", "--out", str(tmp_path / "claim.pem"))
    ((each,),) = [json.loads(run("pki", "show", pki, "--json"))["certificates"]]
    assert (each["group"], each["state"], each["revoked"]) == ("line-3", "valid", "")
    assert each["name"][:9] in run("pki", "show", pki)


def test_one_of_ones_own_is_taken(tmp_path: Path) -> None:
    own = Authority(tmp_path / "own")
    both = ("--ca", str(own.ca), "--ca-key", str(own.folder / "ca.key"))
    run("pki", "init", str(tmp_path / "pki"), *BROKER, *both)
    assert (tmp_path / "pki" / "ca.pem").read_bytes() == own.ca.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("pki", "init", "HERE", *BROKER), "is there already, and nothing in it was touched"),
        (("pki", "init", "new", "--fleet", "Pumps", "--broker", "x"), "fleet must be 1 to 36"),
        (("pki", "init", "new", "--fleet", "pumps", "--broker", "a,,b"), "hosts must be names"),
        (("pki", "init", "new", "--fleet", "pumps", "--broker", "bröker"), "hosts must be names (in ASCII)"),
        (("pki", "init", "new", *BROKER, "--port", "0"), "port must be"),
        (("pki", "init", "new", *BROKER, "--ca", "x"), "--ca and --ca-key belong together"),
        (("pki", "show", "nothing"), "no folder of an authority"),
        (("pki", "revoke", "HERE", "pump-9"), "pump-9 has no certificate"),
        (("enrol", "claim", "nothing", "--group", "g", "--out", "c"), "no folder of an authority"),
        (("enrol", "claim", "HERE", "--group", "G", "--out", "c"), "group 'G'"),
        (("enrol", "list", "nothing"), "no such ledger"),
        (("enrol", "accept", "HERE", "pump-9"), "no device asks to be pump-9"),
        (("enrol", "accept", "HERE", "claim-000000000000"), "is no claim"),
        (("enrol", "refuse", "HERE", "pump-9", "--reason", "x" * 201), "200 printable"),
        (("enrol", "allow", "HERE", "claim-x"), "no claim or cloud's own"),
        (("enrol", "serve", "nothing"), "no folder of an authority"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    pki = str(made(tmp_path / "pki"))
    found = run(*(pki if each == "HERE" else each for each in arguments))
    assert found.startswith("refused: ")
    assert text in found
    assert "\n" not in found


def test_claims_are_handed_out_and_listed(tmp_path: Path) -> None:
    pki = str(made(tmp_path / "pki"))
    many = json.loads(
        run("enrol", "claim", pki, "--group", "g", "--count", "3", "--out", str(tmp_path / "c"), "--json")
    )
    assert {Path(each["file"]).name for each in many} == {path.name for path in (tmp_path / "c").iterdir()}
    found = json.loads(run("enrol", "list", pki, "--json"))
    assert {each["claim"] for each in found} == {each["claim"] for each in many}
    assert {each["state"] for each in found} == {"unused"}


def test_a_device_is_accepted_another_refused(tmp_path: Path) -> None:
    pki = made(tmp_path / "pki")
    first, second = (claim(pki, tmp_path / f"{name}.pem", accepts=False) for name in ("first", "second"))
    by = pending(pki, first, "pump-1")
    assert "pump-1" in run("enrol", "list", str(pki))
    assert run("enrol", "accept", str(pki), "pump-1") == f"accepted: pump-1 that asks by {by}\n"
    other = pending(pki, second, "pump-2")
    assert "refused: pump-2" in run("enrol", "refuse", str(pki), other, "--reason", "not ours")
    states = {
        each["claim"]: (each["state"], each["reason"]) for each in json.loads(run("enrol", "list", str(pki), "--json"))
    }
    assert states == {by: ("accepted", ""), other: ("refused", "not ours")}


def test_a_claim_that_has_served_is_not_accepted_again(tmp_path: Path) -> None:
    pki, path = made(tmp_path / "pki"), tmp_path / "claim.pem"
    by = pending(pki, claim(pki, path), "pump-1")
    ledger = Ledger(pki)
    ledger.settle(by, "issued")
    ledger.close()
    assert "has served pump-1; to shut that out: fedfleet pki revoke" in run("enrol", "refuse", str(pki), by)


def test_a_list_of_allowed_devices_grows_and_shrinks(tmp_path: Path) -> None:
    pki = str(made(tmp_path / "pki"))
    assert run("enrol", "allow", pki, "pump-2", "pump-1") == "allowed: pump-1, pump-2\n"
    assert run("enrol", "allow", pki, "pump-2", "pump-1", "--remove") == "allowed: nobody\n"


def test_a_claim_that_was_lost_is_revoked(tmp_path: Path) -> None:
    pki, path = made(tmp_path / "pki"), tmp_path / "claim.pem"
    name = Claim(claim(pki, path)).name
    found = json.loads(run("pki", "revoke", str(pki), name, "--reason", "card lost", "--json"))
    assert (found["device"], len(found["serials"])) == (name, 1)
    ((each,),) = [json.loads(run("pki", "show", str(pki), "--json"))["certificates"]]
    assert (each["state"], each["reason"]) == ("revoked", "card lost")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", each["revoked"])


@needs_mosquitto
@needs_openssl
def test_the_desk_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with world(tmp_path) as fleet:
        command = [sys.executable, "-m", "fedfleet.cli.main", "enrol", "serve", str(fleet.pki)]
        said = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment(), text=True, **said) as process:
            try:
                assert process.stdout is not None
                assert "the desk of fleet pumps is open at 127.0.0.1:" in process.stdout.readline()
                assert enrols(fleet, tmp_path)
                process.send_signal(signal.SIGINT)
                _, error = process.communicate(timeout=30)
            finally:
                process.kill()
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error


def enrols(fleet: World, base: Path) -> bool:
    path = claim(fleet.pki, base / "claim.pem")
    by, topics = Claim(path).name, Topics("pumps")
    asking = Asking(Identity(base / "identity.pem", "pump-1"), topics, by, "line-3", str(path), time.monotonic)
    bus = MqttBus(fleet.as_(path), by)
    bus.subscribe(asking.answers)
    try:
        return until(lambda: asking.step(bus, [payload for _, payload in bus.deliveries(0.1)]))
    finally:
        bus.close()
