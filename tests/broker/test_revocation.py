"""A device that is revoked while it talks: cut off within seconds, by all locks, and nobody else is disturbed."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker.estates import TOPICS, Estate, Talker, estate
from broker.raw import Raw, Way
from commands import run as command
from processes import until

from fedfleet.cloud.broker import server
from fedfleet.wire.errors import BusDown
from fedfleet.wire.mqtt import MqttBus

# paho leaves the socket of a handshake that failed to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
BAR = 5.0  # seconds from the command to the last message of the device that is accepted
START = Callable[..., Talker]


@pytest.fixture
def at(kind: str, tmp_path: Path) -> Iterator[Estate]:
    with estate(tmp_path) as found:
        yield found


@pytest.fixture
def talk(at: Estate) -> Iterator[START]:
    """Start devices that talk until the test is over."""
    talking = list[Talker]()

    def one(name: str, *, socket: bool = False) -> Talker:
        talking.append(Talker(at.broker(at.enrol(name), socket=socket), name))
        return talking[-1]

    yield one
    for each in talking:
        each.end()


class Ear:
    """The cloud's end: who said what, and when it came."""

    def __init__(self, at: Estate) -> None:
        self.bus = MqttBus(at.broker(), "mill-cloud", jitter=lambda: 0.02)
        for pattern in (TOPICS.want(), TOPICS.status()):
            self.bus.subscribe(pattern)
        self.heard = list[tuple[float, str, bytes]]()

    def listen(self, seconds: float = 0.0) -> None:
        """Take down what has come, and what comes within some time."""
        found = self.bus.deliveries(seconds)
        self.heard += [(time.monotonic(), topic, payload) for topic, payload in found]

    def of(self, name: str) -> list[tuple[float, bytes]]:
        """What a device wanted."""
        return [(when, payload) for when, topic, payload in self.heard if topic == TOPICS.want(name)]

    def hears(self, name: str, after: int = 5) -> bool:
        """Whether a device is heard, sooner or later, to say a number larger than `after`."""

        def said() -> bool:
            self.listen(0.05)
            return any(int(payload) > after for _, payload in self.of(name))

        return until(said)


@pytest.mark.parametrize("socket", [False, True], ids=["tcp", "websocket"])
def test_the_last_word_of_a_live_device_is_heard_within_seconds(
    at: Estate, talk: START, socket: bool, record_property: Callable[[str, object], None]
) -> None:
    bad, good, ear = talk("pump-1", socket=socket), talk("pump-2", socket=socket), Ear(at)
    assert ear.hears("pump-1") and ear.hears("pump-2")
    began = time.monotonic()
    said = command("pki", "revoke", str(at.pki), "pump-1")  # in this process: its start is not the broker's business
    assert said.endswith("the broker has shut it out, and ended its session\n"), said
    # the order of a broker: what pump-2 said after the command stands behind all that was let through before
    assert ear.hears("pump-2", good.said)
    seconds, words = ear.of("pump-1")[-1][0] - began, len(ear.of("pump-1"))
    record_property("seconds", round(seconds, 2))
    print(f"the last word was heard {seconds:.2f} s after the command was given")
    assert seconds < BAR
    kept_out = not socket or (server.version() or ()) >= (2, 1)
    assert until(lambda: "revoked" in bad.bus.reason if kept_out else bad.bus.connections > 1)
    assert ear.hears("pump-2", good.said)
    assert len(ear.of("pump-1")) == words < bad.said
    assert [payload for _, topic, payload in ear.heard if topic == TOPICS.status("pump-1")] == [b"there"]
    assert (good.bus.connections, ear.bus.connections) == (1, 1)
    at.mosquitto.kill()
    at.mosquitto.start()
    assert until(lambda: good.bus.connections > 1 and ear.bus.connections > 1)
    assert ear.hears("pump-2", good.said)
    assert until(lambda: "revoked" in bad.bus.reason if kept_out else bad.bus.connections > 2)
    assert ear.hears("pump-2", good.said)
    assert len(ear.of("pump-1")) == words
    ear.bus.close()


def test_each_of_several_that_are_revoked_at_once_is_out(at: Estate) -> None:
    names = [f"pump-{number}" for number in range(4)]
    pems = {name: at.enrol(name) for name in names}
    for name in names:
        assert "ended its session" in command("pki", "revoke", str(at.pki), name)
    for name in names:
        with pytest.raises(BusDown, match="was revoked"):
            MqttBus(at.broker(pems[name]), name)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_from_before_is_of_no_use(at: Estate, version: ssl.TLSVersion) -> None:
    way, pem = Way(at.pki / "ca.pem", at.port), at.enrol("pump-1")
    context = way.context(None)
    context.load_cert_chain(pem)
    context.maximum_version = version
    first = Raw(way, None, "pump-1", context=context)
    assert first.publish(TOPICS.want("pump-1"), b"1") in (0, 16)  # 16: nobody listens
    ticket = first.link.session
    command("pki", "revoke", str(at.pki), "pump-1")
    ear = Ear(at)
    ear.bus.publish(TOPICS.task, b"secret", retain=True)
    try:
        thief = Raw(way, None, "pump-1", context=context, session=ticket)
    except OSError:
        pass
    else:  # mosquitto 2.0 believes in tickets; then the access list stands
        thief.publish(TOPICS.want("pump-1"), b"2")
        thief.subscribe(TOPICS.task)
        assert thief.heard() == []
        thief.leave()
        assert (server.version() or ()) < (2, 1)
    ear.bus.publish(TOPICS.want("end"), b"3")
    assert ear.hears("end", 2)
    assert ear.of("pump-1") == []
    ear.bus.close()


def test_a_broker_with_a_folder_of_its_own_gets_the_lists(kind: str, tmp_path: Path) -> None:
    with estate(tmp_path, apart=True) as found:
        before = (found.folder / "acl").stat()
        talker, ear = Talker(found.broker(found.enrol("pump-1")), "pump-1"), Ear(found)
        assert ear.hears("pump-1")
        assert "ended its session" in command("pki", "revoke", str(found.pki), "pump-1")
        assert until(lambda: "revoked" in talker.bus.reason)
        for name in ("acl", "crl.pem"):
            assert (found.folder / name).read_bytes() == (found.pki / name).read_bytes()
        assert "user pump-1\ntopic deny #\n" in (found.folder / "acl").read_text()
        assert (found.folder / "acl").stat().st_mode == before.st_mode
        talker.end()
        ear.bus.close()


def test_settings_that_are_written_again_shut_out_the_same(at: Estate) -> None:
    pem = at.enrol("pump-1")
    command("pki", "revoke", str(at.pki), "pump-1")
    command("broker", "config", str(at.pki), "--gossip")
    assert "user pump-1\ntopic deny #\n" in (at.pki / "acl").read_text()
    assert server.reload(at.pki) == ""
    with pytest.raises(BusDown, match="was revoked"):
        MqttBus(at.broker(pem), "pump-1")


def test_without_a_broker_here_the_operator_is_told_what_to_do(kind: str, tmp_path: Path) -> None:
    found = Estate(tmp_path, apart=True)
    found.enrol("pump-1")
    said = command("pki", "revoke", str(found.pki), "pump-1").splitlines()[1:]
    assert "no mosquitto runs" in said[0] and "SIGHUP" in said[0] and str(found.folder) in said[0]
    assert said[1:] == [f"then end its session: fedfleet broker kick {found.pki} pump-1"]
    assert "start one or correct host and port" in command("broker", "kick", str(found.pki), "pump-1")


@pytest.mark.parametrize("who", ["another", "nobody", "rubbish", "init"])
def test_only_a_mosquitto_is_told_to_reload(tmp_path: Path, who: str) -> None:
    (tmp_path / "data").mkdir()
    other = subprocess.Popen(["sleep", "60"])
    pid = {"another": str(other.pid), "nobody": "4194304", "rubbish": "x", "init": "1"}[who]
    (tmp_path / "data/mosquitto.pid").write_text(pid)
    try:
        assert "no mosquitto runs" in server.reload(tmp_path)
        os.kill(other.pid, 0)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_kick_ends_a_session_and_leaves_nothing(at: Estate, talk: START) -> None:
    talker, ear = talk("pump-1"), Ear(at)
    assert ear.hears("pump-1")
    assert command("broker", "kick", str(at.pki), "pump-1") == "the session of pump-1 is over\n"
    assert until(lambda: talker.bus.connections == 2)  # nothing keeps it out
    assert ear.hears("pump-1", talker.said)
    statuses = [payload for _, topic, payload in ear.heard if topic == TOPICS.status("pump-1")]
    assert set(statuses) <= {b"there", b"gone"}
    assert command("broker", "kick", str(at.pki), "a/b").startswith("refused: device 'a/b' must be")
    ear.bus.close()
