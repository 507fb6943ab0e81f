"""Who gets in at all: at either door, by either protocol, only who has a certificate of the fleet that holds."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from broker.authority import DAY, Authority
from broker.conftest import WAYS, Yard
from broker.raw import Raw, Way

from fedfleet.cloud.broker import server
from fedfleet.cloud.identity.folder import link, read
from fedfleet.wire.errors import BusDown
from fedfleet.wire.mqtt import MqttBus

HOUR = timedelta(hours=1)


def foreign(yard: Yard, folder: Path) -> Path:
    """Of another authority, for a name that is known here."""
    Authority(folder / "foreign").sign("pump-1", "pump-1")
    return folder / "foreign" / "pump-1.pem"


def namesake(yard: Yard, folder: Path) -> Path:
    """Of another authority that calls itself ours."""
    other = Authority(folder / yard.authority.folder.name)
    assert other.name == yard.authority.name
    other.sign("pump-1", "pump-1")
    return other.folder / "pump-1.pem"


def itself(yard: Yard, folder: Path) -> Path:
    """Signed by itself."""
    Authority(folder / "pump-1")
    (folder / "pump-1" / "ca.key").rename(folder / "pump-1" / "own.key")
    return (folder / "pump-1" / "ca.pem").rename(folder / "pump-1" / "own.pem")


def below(yard: Yard, folder: Path) -> Path:
    """Signed by a device of ours, which is no authority."""
    sub = Authority(folder / "sub")
    sub.sign("pump-2", "pump-2")
    chain = (sub.folder / "pump-2.pem").read_text() + yard.certificate("pump-1").read_text()
    (sub.folder / "pump-2.pem").write_text(chain)
    return sub.folder / "pump-2.pem"


def expired(yard: Yard, folder: Path) -> Path:
    """It was good until an hour ago."""
    yard.authority.sign("pump-1", "expired", begins=-DAY, ends=-HOUR)
    return yard.certificate("expired")


def early(yard: Yard, folder: Path) -> Path:
    """It will be good in an hour."""
    yard.authority.sign("pump-1", "early", begins=HOUR, ends=DAY)
    return yard.certificate("early")


def nothing(yard: Yard, folder: Path) -> None:
    """No certificate."""


STRANGERS = (foreign, namesake, itself, below, expired, early, nothing)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_stay_outside(
    yard: Yard, tmp_path: Path, way: str, stranger: Callable[[Yard, Path], Path | None]
) -> None:
    certificate = stranger(yard, tmp_path)
    assert server.reload(yard.folder) == ""  # after which mosquitto 2.0 looks at certificates by another way
    with pytest.raises(OSError):
        Raw(yard.by(way), certificate, "pump-1")
    yard.connect("pump-1", way).leave()


def test_a_certificate_is_worth_nothing_without_its_key(yard: Yard, tmp_path: Path) -> None:
    stolen = tmp_path / "stolen.pem"
    stolen.write_bytes(yard.certificate("pump-1").read_bytes())
    stolen.with_suffix(".key").write_bytes(yard.certificate("pump-2").with_suffix(".key").read_bytes())
    with pytest.raises(ssl.SSLError, match="(?i)mismatch"):
        Raw(yard.way, stolen, "pump-1")


@pytest.mark.parametrize("way", WAYS)
def test_neither_door_opens_without_tls(yard: Yard, way: str) -> None:
    found = yard.by(way)
    greeting = b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06pump-1"
    upgrade = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    with socket.create_connection((found.host, found.port), 20) as plain:
        try:
            plain.sendall(upgrade if found.socket else greeting)
            answer = plain.recv(100)
        except ConnectionError:
            answer = b""
    assert answer[:1] in (b"", b"\x15")  # the end, or an alert of TLS: neither a CONNACK nor HTTP
    assert b"HTTP" not in answer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("way", WAYS)
def test_tls_is_1_2_at_least(yard: Yard, way: str, version: ssl.TLSVersion) -> None:
    context = yard.by(way).context(yard.certificate("pump-1"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    context.set_ciphers("ALL:@SECLEVEL=0")  # else it is we who refuse
    if version == ssl.TLSVersion.TLSv1_1:
        with pytest.raises(ssl.SSLError, match="(?i)protocol|internal error"):
            Raw(yard.by(way), None, "pump-1", context=context)
    else:
        found = Raw(yard.by(way), None, "pump-1", context=context)
        assert found.link.version() == version.name.replace("_", ".")
        found.leave()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_broker_is_known_by_all_its_names(yard: Yard, host: str) -> None:
    Raw(yard.way._replace(host=host), yard.certificate("pump-1"), "pump-1").leave()


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_a_broker_by_another_name_is_not_believed(yard: Yard) -> None:
    broker = link(yard.folder, read(yard.folder), "cloud")
    MqttBus(broker, "mill-cloud").close()
    other = type(broker)(
        "127.0.0.2", broker.port, tls=True, ca=broker.ca, certificate=broker.certificate, key=broker.key
    )
    with pytest.raises(BusDown, match="another name|does not list this address"):
        MqttBus(other, "mill-cloud")


def test_a_false_broker_with_a_device_s_certificate_is_not_believed(yard: Yard) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(yard.certificate("pump-2"), yard.certificate("pump-2").with_suffix(".key"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ours, theirs = (ssl.MemoryBIO() for _ in range(2))
        false = context.wrap_bio(ours, theirs, server_side=True)
        client = Way(yard.folder / "ca.pem", port).context(yard.certificate("pump-1"))
        one, other = (ssl.MemoryBIO() for _ in range(2))
        honest = client.wrap_bio(one, other, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            for _ in range(4):
                for side, sent, received in ((honest, other, ours), (false, theirs, one)):
                    with suppress(ssl.SSLWantReadError):
                        side.do_handshake()
                    received.write(sent.read())


def test_a_name_and_a_password_make_nobody_of_a_stranger(yard: Yard, way: str) -> None:
    with pytest.raises(OSError):
        Raw(yard.by(way), None, "pump-1", username="mill-cloud")


@pytest.fixture
def seen(yard: Yard, way: str) -> bool:
    """Whether who was revoked is kept out by this way already, and not by the access list only."""
    return (server.version() or ()) >= (2, 1) or not yard.by(way).socket


def test_a_revoked_certificate_does_not_get_in_after_a_reload_or_a_restart(yard: Yard, way: str, seen: bool) -> None:
    name = f"gone-{len(way)}"
    serial = yard.authority.sign(name, name)
    yard.connect(name, way).leave()
    yard.authority.revoke(serial)
    assert server.reload(yard.folder) == ""
    for _ in range(3):
        with pytest.raises(OSError) if seen else nullcontext():
            yard.connect(name, way).leave()
        yard.connect("pump-1", way).leave()
    yard.mosquitto.kill()
    yard.mosquitto.start()
    with pytest.raises(OSError) if seen else nullcontext():
        yard.connect(name, way).leave()
    yard.connect("pump-1", way).leave()


def test_each_of_many_revocations_in_a_row_counts(yard: Yard) -> None:
    names = [f"row-{number}" for number in range(4)]
    serials = [yard.authority.sign(name, name) for name in names]
    for name, serial in zip(names, serials):
        yard.connect(name).leave()
        yard.authority.revoke(serial)
        assert server.reload(yard.folder) == ""
        with pytest.raises(OSError):
            yard.connect(name)
