"""The cloud's side with one broken thing each: an aggregator by its settings, an authority by its folder."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from brokers import needs_mosquitto
from certificates import Authority, needs_openssl, openssl
from fleets import Whole, asked, fedfleet, signed, whole
from patients import DEVICE, FLEET, TOPICS, diagnoses, examined, healthy

from fedfleet.cloud.journal import Journal
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

pytestmark = [needs_mosquitto, needs_openssl]


@pytest.fixture
def fleet(tmp_path: Path) -> Whole:
    return whole(tmp_path)


class Case(NamedTuple):
    side: Literal["settings", "pki"]
    check: str
    cause: str
    break_it: Callable[[Whole], object]


def damaged_program(fleet: Whole) -> None:
    (fleet.folder / "model" / "program.tflite").write_bytes(b"other")


def state_is_a_file(fleet: Whole) -> None:
    (fleet.folder / "state").write_text("")


def damaged_journal(fleet: Whole) -> None:
    Journal(fleet.folder / "state").close()
    (fleet.folder / "state" / "journal.sqlite").write_bytes(b"no database" * 100)


def newer_journal(fleet: Whole) -> None:
    Journal(fleet.folder / "state").close()
    with sqlite3.connect(fleet.folder / "state" / "journal.sqlite") as database:
        database.execute("PRAGMA user_version = 1000")
    database.close()


def operators_certificate(fleet: Whole) -> None:
    fleet.broker |= {"certificate": str(fleet.pki / "operator.pem"), "key": str(fleet.pki / "operator.key")}


def cloud_may_not_write(fleet: Whole) -> None:
    fleet.acl = f"user {FLEET}-cloud\ntopic read {TOPICS}/#\n"


def cloud_may_not_read(fleet: Whole) -> None:
    fleet.acl = f"user {FLEET}-cloud\ntopic write {TOPICS}/#\n"


def stale_list(fleet: Whole) -> None:
    folder, pki = fleet.folder / "other", fleet.pki
    conf = Authority(folder).folder / "ca.conf"
    by = ("-config", conf, "-cert", pki / "ca.pem", "-keyfile", pki / "ca.key")
    when = ("-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z")
    openssl("ca", *by, "-gencrl", *when, "-out", pki / "crl.pem")


def other_authority(fleet: Whole) -> None:
    """The broker's certificate was made by another one: as after `pki init` into a new folder."""
    pair = Authority(fleet.folder / "other").sign("broker", alternative="IP:127.0.0.1,DNS:localhost")
    for path, name in zip(pair, ("broker.pem", "broker.key")):
        shutil.copy(path, fleet.pki / name)
    (fleet.pki / "broker.key").chmod(0o600)


def other_host(fleet: Whole) -> None:
    path = fleet.pki / "fleet.toml"
    path.write_text(path.read_text().replace('"localhost"', '"mqtt.example.com"'))


def nobody_listens(fleet: Whole) -> None:
    fleet.listens = False


CASES = [
    Case("settings", "settings", "settings-wrong", lambda fleet: fleet.top.update(strategy="fedavgg")),
    Case("settings", "model", "model-unusable", damaged_program),
    Case("settings", "state", "state-no-folder", state_is_a_file),
    Case("settings", "journal", "journal-unusable", damaged_journal),
    Case("settings", "journal", "journal-unusable", newer_journal),
    Case("settings", "port", "port-refused", nobody_listens),
    Case("settings", "certificate", "certificate-name", operators_certificate),
    Case("settings", "acl", "acl-write", cloud_may_not_write),
    Case("settings", "acl", "acl-delivery", cloud_may_not_read),
    Case("settings", "packets", "packets-too-small", lambda fleet: fleet.lines.insert(0, "max_packet_size 50000")),
    Case("pki", "pki", "pki-wrong", lambda fleet: (fleet.pki / "fleet.toml").unlink()),
    Case("pki", "keys", "pki-key-mode", lambda fleet: (fleet.pki / "operator.key").chmod(0o640)),
    Case("pki", "authority", "ca-missing", lambda fleet: (fleet.pki / "ca.pem").write_text("gone")),
    Case("pki", "crl", "crl-stale", stale_list),
    Case("pki", "crl", "pki-broken", lambda fleet: (fleet.pki / "crl.pem").write_text("gone")),
    Case("pki", "server", "server-names", other_host),
    Case("pki", "server", "server-key", lambda fleet: shutil.copy(fleet.pki / "cloud.key", fleet.pki / "broker.key")),
    Case("pki", "server", "server-foreign", other_authority),
    Case("pki", "ledger", "ledger-broken", lambda fleet: (fleet.pki / "identity.sqlite").write_bytes(b"no" * 999)),
    Case("pki", "certificate", "certificate-missing", lambda fleet: (fleet.pki / "operator.pem").unlink()),
    Case("pki", "port", "port-refused", nobody_listens),
]  # fmt: skip
OFFLINE = {"pki-broken", "ca-missing", "server-key", "crl-stale"}  # with these no broker starts, or lets anybody in


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.cause}-{case.break_it.__name__.strip('<>')}")
def test_one_broken_thing_is_one_diagnosis(case: Case, fleet: Whole) -> None:
    if case.cause in OFFLINE:  # a broker with what was there before
        shutil.copytree(fleet.pki, fleet.folder / "before")
        fleet.lines = [line.replace(f"{fleet.pki}/", f"{fleet.folder}/before/") for line in fleet.lines]
    case.break_it(fleet)
    with fleet.up():
        code, checks = asked(fleet, fleet.file if case.side == "settings" else fleet.pki)
    assert diagnoses(checks) == [(case.check, case.cause)]
    assert code == 2


def test_with_a_whole_fleet_all_is_well_on_all_three_sides(fleet: Whole, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "device").mkdir()
    device = healthy(tmp_path / "device", authority)
    own = signed(fleet.pki, DEVICE, device.folder)
    device.broker = {**fleet.broker, "certificate": str(own[0]), "key": str(own[1])}
    device.listens = False
    with fleet.up(), device.up():
        found = [examined(device), asked(fleet, fleet.file), asked(fleet, fleet.pki)]
    assert [(code, diagnoses(checks)) for code, checks in found] == [(0, [])] * 3
    assert "written, and delivered" in found[0][1]["acl"]["seen"]
    assert found[2][1]["acl"]["seen"] == "1 retained messages were delivered"  # what the device's doctor has said


@contextmanager
def aggregators_link(fleet: Whole) -> Iterator[MqttBus]:
    bus = MqttBus(Broker(**fleet.broker), f"{FLEET}-cloud")
    try:
        yield bus
    finally:
        bus.close()


def test_a_port_for_metrics_that_is_taken(fleet: Whole) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        fleet.more = f"[metrics]\nport = {server.getsockname()[1]}"
        with fleet.up():
            assert diagnoses(asked(fleet, fleet.file)[1]) == [("metrics", "metrics-port")]


def test_a_task_that_nobody_can_read(fleet: Whole) -> None:
    with fleet.up():
        with aggregators_link(fleet) as bus:
            bus.publish(f"{TOPICS}/task", b"rubbish", retain=True)
        assert diagnoses(asked(fleet, fleet.file)[1]) == [("task", "task-unreadable")]
        assert diagnoses(asked(fleet, fleet.pki)[1]) == [("task", "task-unreadable")]


def test_a_running_aggregator_keeps_its_name_and_is_taken_at_its_word(fleet: Whole) -> None:
    journal = Journal(fleet.folder / "state")  # whoever holds this may hold the link
    try:
        with fleet.up(), aggregators_link(fleet) as bus:
            checks = asked(fleet, fleet.file)[1]
            assert bus.connections == 1
            assert bus.reason == ""
    finally:
        journal.close()
    assert diagnoses(checks) == []
    assert checks["acl"]["outcome"] == "skipped"
    assert "the aggregator runs" in checks["acl"]["seen"]


def test_for_people_each_check_is_a_line_and_what_is_broken_has_its_fix_below(fleet: Whole) -> None:
    fleet.listens = False
    with fleet.up():
        ended = fedfleet("doctor", fleet.file)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 2
    at = next(number for number, line in enumerate(lines) if line.startswith("FAILED"))
    assert lines[at].split()[:2] == ["FAILED", "port"]
    assert lines[at + 1].strip().startswith("-> start the broker, or correct broker.port")
    assert lines[-1] == "1 to mend"
