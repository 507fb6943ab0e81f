"""Devices with one broken thing each: doctor names that one, and nothing else, and says what to do."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from brokers import Peer, needs_mosquitto, scripted
from certificates import DAY, Authority, needs_openssl, openssl
from patients import ACL, DEVICE, HERE, TOPICS, Patient, diagnoses, examined, root, secure

from fedfleet.wire.calling import Needs
from fedfleet.wire.messages import Blob, Plan, Task, encode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

pytestmark = [needs_mosquitto, needs_openssl]
YEAR = 365 * DAY


class Case(NamedTuple):
    """What is broken, by whom, and what is to be said of it."""

    check: str
    cause: str
    break_it: Callable[[Patient], None]
    needs: str = ""


def own(patient: Patient, pair: tuple[Path, Path]) -> None:
    """Give the device another certificate."""
    pair[1].chmod(0o600)
    patient.broker |= {"certificate": str(pair[0]), "key": str(pair[1])}


def signed(**how: timedelta) -> Callable[[Patient], None]:
    return lambda patient: own(patient, patient.authority.sign(DEVICE, **how))


def served(alternative: str = HERE, **how: timedelta) -> Callable[[Patient], None]:
    """Give the broker another certificate."""

    def do(patient: Patient) -> None:
        pair = patient.authority.sign("broker", alternative=alternative, **how)
        patient.lines = secure(patient.authority, patient.broker["port"], pair)

    return do


def broker(**values: object) -> Callable[[Patient], None]:
    return lambda patient: patient.broker.update(values)


def prefixed(*words: str) -> Callable[[Patient], None]:
    def do(patient: Patient) -> None:
        patient.prefix = [word.format(state=patient.state) for word in words]

    return do


def mounted(how: str) -> Callable[[Patient], None]:
    """Run doctor where the state folder is mounted otherwise."""
    return prefixed("unshare", "-m", "sh", "-c", f'{how} && exec "$@"', "sh")


def foreign_state(patient: Patient) -> None:
    os.chown(next((patient.state / "examples").iterdir()), 65534, 65534)


def shut(patient: Patient) -> None:
    patient.state.chmod(0)
    patient.prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def file_for_state(patient: Patient) -> None:
    shutil.rmtree(patient.state)
    patient.state.write_text("")


def foreign_certificate(patient: Patient) -> None:
    own(patient, Authority(patient.folder / "other").sign(DEVICE))


def other_key(patient: Patient) -> None:
    own(patient, (patient.certificate[0], patient.authority.sign(DEVICE)[1]))


def foreign_broker(patient: Patient) -> None:
    other = Authority(patient.folder / "other")
    patient.lines = secure(other, patient.broker["port"], other.sign("broker", alternative=HERE))


def revoked(patient: Patient) -> None:
    folder, conf = patient.authority.folder, patient.authority.folder / "ca.conf"
    where = ("-config", conf, "-cert", patient.authority.ca, "-keyfile", folder / "ca.key")
    openssl("ca", *where, "-revoke", patient.certificate[0])
    openssl("ca", *where, "-gencrl", "-crldays", "30", "-out", patient.folder / "crl.pem")
    patient.lines.append(f"crlfile {patient.folder / 'crl.pem'}")


def plain_listener(patient: Patient) -> None:
    patient.lines = [f"listener {patient.broker['port']} 127.0.0.1", "allow_anonymous true"]


def without_tls(patient: Patient) -> None:
    patient.broker = {"port": patient.broker["port"]}


def anonymous(patient: Patient) -> None:
    without_tls(patient)
    patient.lines = [f"listener {patient.broker['port']} 127.0.0.1", "allow_anonymous false"]


def wrong_password(patient: Patient) -> None:
    anonymous(patient)
    (patient.folder / "users").write_text("")
    patient.lines.append(f"password_file {patient.folder / 'users'}")
    patient.broker |= {"username": DEVICE, "password_env": "DOCTORS_PASSWORD"}
    patient.environment["DOCTORS_PASSWORD"] = "wrong"


def password_not_set(patient: Patient) -> None:
    wrong_password(patient)
    del patient.environment["DOCTORS_PASSWORD"]


def shadowed(patient: Patient, name: str, text: str) -> None:
    """Put a package before the installed one of that name."""
    package = patient.folder / "shadow" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(text)
    patient.environment["PYTHONPATH"] = f"{package.parent}:{patient.environment['PYTHONPATH']}"


def broken_runtime(patient: Patient) -> None:
    for name in ("ai_edge_litert", "tflite_runtime"):
        shadowed(patient, name, "raise ImportError('libLiteRt.so: cannot open shared object file')")


def crashing_runtime(patient: Patient) -> None:
    shadowed(patient, "ai_edge_litert", "import os, signal\nos.kill(os.getpid(), signal.SIGILL)")


def no_examples(patient: Patient) -> None:
    shutil.rmtree(patient.state / "examples")


CASES = [
    Case("settings", "settings-wrong", lambda patient: patient.top.update(tag="x")),
    Case("state", "state-no-folder", file_for_state),
    Case("state", "state-denied", shut, "root"),
    Case("state", "state-owner", foreign_state, "root"),
    Case("state", "state-read-only", mounted("mount --bind {state} {state} && mount -o remount,bind,ro {state}"), "root"),
    Case("state", "state-full", mounted("cp -a {state} {state}.was && mount -t tmpfs -o size=64k none {state} "
         "&& cp -a {state}.was/. {state} && (cat /dev/zero > {state}/blob 2>/dev/null; true)"), "root"),
    Case("disk", "disk-full", mounted("cp -a {state} {state}.was && mount -t tmpfs -o size=8m none {state} "
         "&& cp -a {state}.was/. {state}"), "root"),
    Case("disk", "disk-guard", lambda patient: setattr(patient, "more", "[guards]\nmin_disk_mib = 1e9")),
    Case("examples", "examples-none", no_examples),
    Case("runtime", "runtime-broken", broken_runtime),
    Case("runtime", "runtime-broken", crashing_runtime),
    Case("clock", "clock-not-set", prefixed("faketime", "1970-01-01 00:10:00"), "faketime"),
    Case("clock", "clock-ahead", prefixed("faketime", "2200-01-01 00:00:00"), "faketime"),
    Case("clock", "clock-behind", signed(begins=DAY, ends=9 * DAY)),
    Case("authority", "ca-missing", broker(ca="absent.pem")),
    Case("certificate", "certificate-missing", broker(certificate="absent.pem")),
    Case("certificate", "key-missing", broker(key="absent.key")),
    Case("certificate", "certificate-broken", lambda patient: patient.certificate[0].write_text("no certificate")),
    Case("certificate", "key-does-not-fit", other_key),
    Case("certificate", "key-mode", lambda patient: patient.certificate[1].chmod(0o644)),
    Case("certificate", "certificate-name", lambda patient: own(patient, patient.authority.sign("d2"))),
    Case("certificate", "certificate-foreign", foreign_certificate),
    Case("certificate", "certificate-expired", signed(begins=-9 * DAY, ends=-DAY)),
    Case("certificate", "certificate-expiring", signed(begins=-YEAR, ends=DAY)),
    Case("name", "name-unknown", broker(host=f"{'long' * 20}.example")),
    Case("port", "port-refused", lambda patient: setattr(patient, "listens", False)),
    Case("port", "port-no-route", prefixed("unshare", "-n"), "root"),
    Case("tls", "tls-none", plain_listener),
    Case("tls", "tls-foreign", foreign_broker),
    Case("tls", "tls-expired", served(begins=-9 * DAY, ends=-DAY)),
    Case("tls", "tls-not-yet", served(begins=DAY, ends=9 * DAY)),
    Case("tls", "tls-name", served("DNS:broker.example")),
    Case("mqtt", "refused-no-certificate", lambda patient: patient.broker.update(certificate="", key="")),
    Case("mqtt", "refused-revoked", revoked),
    Case("mqtt", "mqtt-tls-wanted", without_tls),
    Case("mqtt", "mqtt-not-authorised", anonymous),
    Case("mqtt", "mqtt-login", wrong_password),
    Case("mqtt", "mqtt-password", password_not_set),
    Case("acl", "acl-write", lambda patient: setattr(patient, "acl", ACL.replace("readwrite", "read"))),
    Case("acl", "acl-delivery", lambda patient: setattr(patient, "acl", ACL.replace("readwrite", "write"))),
    Case("packets", "packets-too-small", lambda patient: patient.lines.insert(0, "max_packet_size 60000")),
]  # fmt: skip


def skip_without(what: str) -> None:
    if what == "root" and not (root() and shutil.which("unshare")):
        pytest.skip("needs root, for mounts, owners and networks of its own")
    if what == "faketime" and shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.cause}-{case.break_it.__name__.strip('<>')}")
def test_one_broken_thing_is_one_diagnosis(case: Case, patient: Patient) -> None:
    skip_without(case.needs)
    case.break_it(patient)
    with patient.up():
        code, checks = examined(patient)
    assert diagnoses(checks) == [(case.check, case.cause)]
    assert code == 2


def test_what_follows_from_it_is_skipped_and_says_so(patient: Patient) -> None:
    patient.listens = False
    with patient.up():
        checks = examined(patient)[1]
    assert {name: checks[name]["seen"] for name in ("tls", "mqtt", "acl", "task")} == {
        "tls": "needs port",
        "mqtt": "needs tls",
        "acl": "needs mqtt",
        "task": "needs acl",
    }


def test_with_a_whole_device_all_is_well(patient: Patient) -> None:
    with patient.up():
        code, checks = examined(patient)
    assert diagnoses(checks) == []
    assert code == 0
    well = {name for name, each in checks.items() if each["outcome"] == "ok"}
    assert set(checks) - well == {"agent", "unit", "claim", "task"}


def test_a_port_that_never_answers_is_told_from_one_that_refuses(patient: Patient) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # as many as the kernel queues, so that the next one is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        patient.broker["port"], patient.listens = server.getsockname()[1], False
        with patient.up():
            assert diagnoses(examined(patient)[1]) == [("port", "port-silent")]


def test_an_old_broker_is_told_from_one_that_refuses_us(patient: Patient) -> None:
    def refuse(peer: Peer) -> None:
        peer.packet()
        peer.send(0x20, bytes([0, 1]))  # MQTT 3.1.1: unacceptable protocol version

    def agree(peer: Peer) -> None:
        peer.welcome()

    with scripted(lambda _: None, refuse, agree) as address:  # the first connection only looks at the port
        patient.broker, patient.listens = {"port": address.port, "mqtt": 3}, False
        with patient.up():
            assert diagnoses(examined(patient)[1]) == [("mqtt", "mqtt-version")]


@contextmanager
def client(patient: Patient, name: str) -> Iterator[MqttBus]:
    """A client of that name, with a certificate of its own."""
    certificate, key = patient.authority.sign(name)
    secure_ = Broker(port=patient.broker["port"], tls=True, ca=str(patient.authority.ca))
    bus = MqttBus(
        Broker(**{**vars(secure_), "certificate": str(certificate), "key": str(key)}), name, jitter=lambda: 0.1
    )
    try:
        yield bus
    finally:
        bus.close()


def test_two_devices_of_one_name_are_found_out(patient: Patient) -> None:
    with patient.up(), client(patient, DEVICE):
        assert diagnoses(examined(patient)[1]) == [("mqtt", "mqtt-taken-over")]


@pytest.mark.parametrize(("memory", "expected"), [(0, []), (2**40, [("task", "task-memory")])])
def test_a_task_that_the_board_is_too_small_for(memory: int, expected: list[tuple[str, str]], patient: Patient) -> None:
    blob = Blob("0" * 64, 1)
    with patient.up(), client(patient, "mill-cloud") as cloud:
        cloud.publish(f"{TOPICS}/task", encode(Task(3, blob, blob, Plan(), needs=Needs((), memory))), retain=True)
        until_sent(cloud)
        checks = examined(patient)[1]
    assert diagnoses(checks) == expected
    assert "round 3" in checks["task"]["seen"]


def until_sent(bus: MqttBus) -> None:
    end = time.monotonic() + 10
    while bus.pending and time.monotonic() < end:
        bus.deliveries(0.05)
    assert not bus.pending
