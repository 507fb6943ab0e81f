"""TLS and WebSocket against a real mosquitto with a real authority: what holds connects, what does not says why."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from brokers import OPEN, Peer, free_port, mosquitto, needs_mosquitto, scripted
from certificates import DAY, Authority, needs_openssl
from processes import until

from fedfleet.sim import brokers
from fedfleet.wire import tls
from fedfleet.wire.bus import Delivery
from fedfleet.wire.errors import BusDown, SettingsError
from fedfleet.wire.keeper import TICK
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

pytestmark = [
    needs_mosquitto,
    needs_openssl,
    # paho leaves the socket of a handshake that failed to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]
HERE = "IP:127.0.0.1,DNS:localhost"
TOPIC = "fedfleet/v1/test/tls"


@dataclass(frozen=True)
class World:
    """One mosquitto with a listener for each way in, and the authority that it and its clients trust."""

    authority: Authority
    plain: Broker
    secure: Broker
    mutual: Broker
    socket: Broker
    secure_socket: Broker


def listener(port: int, certificate: Path, key: Path) -> tuple[str, ...]:
    return (f"listener {port} 127.0.0.1", f"certfile {certificate}", f"keyfile {key}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "authority")
    pair = authority.sign("broker", alternative=HERE)
    ports = [free_port() for _ in range(5)]
    settings = [
        "protocol mqtt",
        *listener(ports[1], *pair),
        *listener(ports[2], *pair),
        f"cafile {authority.ca}",
        "require_certificate true",
        f"listener {ports[3]} 127.0.0.1",
        "protocol websockets",
        *listener(ports[4], *pair),
        "protocol websockets",
    ]
    safe = Broker(tls=True, ca=str(authority.ca))
    with mosquitto(folder, ports[0], *settings, OPEN):
        yield World(
            authority,
            Broker(port=ports[0]),
            replace(safe, port=ports[1]),
            replace(safe, port=ports[2]),
            Broker(port=ports[3], transport="websockets"),
            replace(safe, port=ports[4], transport="websockets"),
        )


def talks(broker: Broker) -> None:
    """Assert that a message comes back by way of `broker`; of 20 kB, since mosquitto's WebSocket sends 40 a second."""
    bus = MqttBus(broker, "d1")
    bus.subscribe(TOPIC)
    bus.publish(TOPIC, bytes(range(200)) * 100)
    assert bus.deliveries(10) == [(TOPIC, bytes(range(200)) * 100)]
    bus.close()


@pytest.mark.parametrize("way", ["plain", "secure", "socket", "secure_socket"])
@pytest.mark.parametrize("version", [5, 3])
def test_every_way_in_carries_messages(world: World, way: str, version: int) -> None:
    talks(replace(getattr(world, way), mqtt=version))


def test_a_client_certificate_lets_in_where_one_is_wanted(world: World) -> None:
    certificate, key = world.authority.sign("d1")
    talks(replace(world.mutual, certificate=str(certificate), key=str(key)))


def test_a_name_is_as_good_as_an_address(world: World) -> None:
    talks(replace(world.secure, host="localhost"))


def refused(broker: Broker, words: str) -> None:
    with pytest.raises(BusDown, match=words) as caught:
        MqttBus(broker, "d1")
    assert "\n" not in str(caught.value)
    assert str(broker.port) in str(caught.value)


def test_no_client_certificate_where_one_is_wanted(world: World) -> None:
    refused(world.mutual, "it wants a client certificate[;,] set broker.certificate and broker.key")


def test_a_client_certificate_of_another_authority(world: World, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "other").sign("d1")
    own = replace(world.mutual, certificate=str(certificate), key=str(key))
    refused(own, "it does not know who signed our certificate")


def test_a_client_certificate_that_has_expired(world: World) -> None:
    certificate, key = world.authority.sign("d1", begins=-2 * DAY, ends=-DAY)
    own = replace(world.mutual, certificate=str(certificate), key=str(key))
    refused(own, "it says that our certificate has expired; renew broker.certificate")


@pytest.mark.parametrize("way", ["secure", "secure_socket"])
def test_a_broker_of_another_authority(world: World, tmp_path: Path, way: str) -> None:
    other = replace(getattr(world, way), ca=str(Authority(tmp_path / "other").ca))
    refused(other, "its certificate is signed by nobody known here; set broker.ca to its authority's")


def test_a_broker_that_the_system_does_not_know(world: World) -> None:
    refused(replace(world.secure, ca=""), "its certificate is signed by nobody known here; set broker.ca")


def test_tls_to_a_plain_port_and_plain_to_a_port_for_tls(world: World) -> None:
    refused(replace(world.secure, port=world.plain.port), "does not speak TLS on this port|8883 is usual for TLS")
    refused(replace(world.plain, port=world.secure.port), "it hung up|reset by peer")


def test_a_websocket_where_there_is_none(world: World) -> None:
    refused(replace(world.socket, port=world.plain.port), "no WebSocket at /mqtt; start one or correct")


def test_nothing_that_could_be_checked_is_left_out(world: World) -> None:
    found = tls.context(world.secure)
    assert (found.check_hostname, found.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert found.minimum_version == ssl.TLSVersion.TLSv1_2


def test_two_packets_in_one_record_are_both_delivered_at_once(world: World) -> None:
    """The kernel knows no more of the second one: it lies decrypted in OpenSSL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*world.authority.sign("broker", alternative=HERE))

    def script(peer: Peer) -> None:
        with context.wrap_socket(peer.link, server_side=True) as link:
            secure = Peer(link)
            secure.welcome()
            link.sendall(bytes([0x30, 6]) + b"\0\3t/1\0" + bytes([0x30, 6]) + b"\0\3t/2\0")
            secure.packet()

    with scripted(script) as plain:
        bus = MqttBus(replace(world.secure, port=plain.port), "d1")
        began, found = time.monotonic(), list[Delivery]()
        while len(found) < 2:
            found += bus.deliveries(1)
        assert time.monotonic() - began < TICK / 2
        bus.close()


@pytest.fixture
def serving(tmp_path: Path, world: World) -> Iterator[Callable[..., Broker]]:
    """Run a broker of its own with a certificate that is wrong in some way."""
    with ExitStack() as stack:

        def start(port: int = 0, **wrong: object) -> Broker:
            port = port or free_port()
            pair = world.authority.sign("broker", **({"alternative": HERE} | wrong))  # type: ignore[arg-type]
            stack.enter_context(mosquitto(tmp_path, port, *listener(port, *pair)[1:], OPEN))
            return replace(world.secure, port=port)

        yield start


def test_a_broker_with_another_name(serving: Callable[..., Broker]) -> None:
    broker = serving(alternative="DNS:broker.example")
    refused(broker, "its certificate does not list this address; set broker.host")
    refused(replace(broker, host="localhost"), "its certificate is for another name; set broker.host")


def test_a_broker_whose_certificate_has_expired(serving: Callable[..., Broker]) -> None:
    refused(serving(begins=-2 * DAY, ends=-DAY), r"is not valid on \d{4}-\d\d-\d\d, which this clock shows; set the")


def test_a_board_whose_clock_is_behind_connects_as_soon_as_it_is_right(
    serving: Callable[..., Broker], caplog: pytest.LogCaptureFixture
) -> None:
    """To a board that believes in 1970 every certificate begins in the future; here one does for a few seconds."""
    broker = serving(begins=timedelta(seconds=3))
    bus = MqttBus(broker, "d1", wait=0, jitter=lambda: 0.02)
    assert until(lambda: "its certificate is not valid on" in bus.reason)
    assert until(lambda: bus.connections == 1, 10)
    bus.close()
    assert caplog.text.count("set the clock or renew it; trying again in") >= 2


def test_a_renewed_certificate_is_taken_up_without_a_restart(world: World, tmp_path: Path) -> None:
    own = [tmp_path / "own.pem", tmp_path / "own.key"]
    for file, old in zip(own, world.authority.sign("d1", begins=-2 * DAY, ends=-DAY), strict=True):
        file.write_bytes(old.read_bytes())
    broker = replace(world.mutual, certificate=str(own[0]), key=str(own[1]))
    bus = MqttBus(broker, "d1", wait=0, jitter=lambda: 0.01)
    assert until(lambda: "our certificate has expired" in bus.reason)
    own[0].unlink()
    assert until(lambda: "own.pem cannot be read: No such file or directory" in bus.reason)
    for file, new in zip(own, world.authority.sign("d1"), strict=True):
        file.write_bytes(new.read_bytes())
    assert until(lambda: bus.connections == 1)
    bus.close()


def test_user_and_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, port = brokers.mosquitto(), free_port()
    assert path is not None
    (tmp_path / "users").write_text("")
    (tmp_path / "users").chmod(0o600)
    subprocess.run(
        [path.replace("sbin", "bin") + "_passwd", "-b", str(tmp_path / "users"), "d1", "right"], check=True, stderr=-3
    )
    (tmp_path / "users").chmod(0o644)
    broker = Broker(port=port, username="d1", password_env="D1_PASSWORD")
    with mosquitto(tmp_path, port, "allow_anonymous false", f"password_file {tmp_path / 'users'}"):
        monkeypatch.setenv("D1_PASSWORD", "wrong")
        refused(
            broker, "refused d1: it answered: (Not authorized|Bad user name or password); check host, port and cred"
        )
        monkeypatch.setenv("D1_PASSWORD", "right")
        talks(broker)


@pytest.mark.parametrize("key", ["ca", "certificate", "key"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_files_that_are_none_are_named(world: World, tmp_path: Path, key: str, content: str | None) -> None:
    certificate, own = world.authority.sign("d1")
    broker = replace(world.mutual, certificate=str(certificate), key=str(own))
    if content is not None:
        (tmp_path / "file").write_text(content)
    with pytest.raises(SettingsError) as caught:
        MqttBus(replace(broker, **{key: str(tmp_path / "file")}), "d1")
    assert f"broker.{key}" in str(caught.value)
    assert f"{tmp_path}/file" in str(caught.value)
    assert ("cannot be read: No such file" if content is None else "must be") in str(caught.value)


def test_a_key_with_a_passphrase_and_one_of_another_certificate_are_refused(world: World, tmp_path: Path) -> None:
    certificate, own = world.authority.sign("d1")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", own, "-out", locked], check=True, stderr=-3
    )
    for key in (locked, world.authority.sign("d2")[1]):
        with pytest.raises(SettingsError, match="belong together, the key without a passphrase"):
            tls.context(replace(world.mutual, certificate=str(certificate), key=str(key)))
