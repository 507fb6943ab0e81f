"""New certificates for the broker and the cloud: taken up by a broker that runs, with the keys that there were."""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from broker.estates import Estate, estate
from commands import run as command
from processes import until

from fedfleet.wire.errors import BusDown
from fedfleet.wire.mqtt import MqttBus

# paho leaves the socket of a handshake that failed to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
ALL = ("broker", "cloud", "enrol", "operator")


def shown(at: Estate) -> bytes:
    """The certificate that the broker shows who connects."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", at.port)) as plain, context.wrap_socket(plain) as link:
        found = link.getpeercert(binary_form=True)
    assert found is not None
    return ssl.DER_cert_to_PEM_cert(found).encode()


@pytest.mark.parametrize("apart", [False, True])
def test_a_broker_that_runs_shows_its_new_certificate_and_no_link_is_cut(
    kind: str, tmp_path: Path, *, apart: bool
) -> None:
    with estate(tmp_path, apart=apart) as at:
        bus = MqttBus(at.broker(), "mill-cloud", wait=5.0)
        keys = {name: (at.pki / f"{name}.key").read_bytes() for name in ALL}
        before = {name: (at.pki / f"{name}.pem").read_bytes() for name in ALL}
        assert before["broker"].startswith(shown(at))
        found = json.loads(command("pki", "renew", str(at.pki), "--json"))
        assert found == {"renewed": list(ALL), "left": []}
        after = {name: (at.pki / f"{name}.pem").read_bytes() for name in ALL}
        assert all(before[name] != after[name] for name in ALL)
        assert keys == {name: (at.pki / f"{name}.key").read_bytes() for name in ALL}
        until(lambda: after["broker"].startswith(shown(at)))
        assert bus.connections == 1
        bus.close()
        MqttBus(at.broker(), "mill-cloud", wait=5.0).close()
        at.mosquitto.kill()
        at.mosquitto.start()
        MqttBus(at.broker(role="operator"), "mill-operator", wait=5.0).close()


def test_a_broker_by_another_name_is_reached_by_it(kind: str, tmp_path: Path) -> None:
    with estate(tmp_path) as at:
        pki = str(at.pki)
        command("pki", "renew", pki, "--broker", "127.0.0.1,mqtt.example.com")
        assert json.loads(command("pki", "show", pki, "--json"))["hosts"] == ["127.0.0.1", "mqtt.example.com"]
        MqttBus(at.broker(), "mill-cloud", wait=5.0).close()
        command("pki", "renew", pki, "--broker", "mqtt.example.com,127.0.0.2")
        until(lambda: (at.pki / "broker.pem").read_bytes().startswith(shown(at)))
        wrong = at.broker()
        assert wrong.host == "mqtt.example.com"
        with pytest.raises(BusDown, match=r"broker\.host"):
            MqttBus(replace(wrong, host="127.0.0.1"), "mill-cloud", wait=5.0)


@pytest.mark.parametrize(
    ("file", "text"),
    [("enrol.key", "enrol.key must hold a private key"), ("ca.key", "ca.key must hold a private key")],
)
def test_what_cannot_be_renewed_is_left_as_it_is(tmp_path: Path, file: str, text: str) -> None:
    pki = tmp_path / "pki"
    command("pki", "init", str(pki), "--fleet", "mill", "--broker", "localhost")
    (pki / file).write_text("no key")
    before = {path.name: path.read_bytes() for path in pki.glob("*.pem")}
    assert text in command("pki", "renew", str(pki))
    assert before == {path.name: path.read_bytes() for path in pki.glob("*.pem")}


def test_a_broker_elsewhere_is_left_to_people(tmp_path: Path) -> None:
    pki = str(tmp_path / "pki")
    command("pki", "init", pki, "--fleet", "mill", "--broker", "localhost")
    found = json.loads(command("pki", "renew", pki, "--json"))
    assert len(found["left"]) == 1
    assert "broker.pem" in found["left"][0]
    assert "hosts must be names" in command("pki", "renew", pki, "--broker", "mqtt example")
