"""A device enrols over a real mosquitto that asks for certificates, is refused, waits for its operator, renews."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from brokers import needs_mosquitto
from certificates import needs_openssl
from faults import kill_points
from identities import World, claim, desk, mode, settings, world
from processes import until

from fedfleet.cloud.identity import claims, revocation
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.edge.enrol import enrolled
from fedfleet.edge.settings import load_agent
from fedfleet.wire.errors import BusDown
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

pytestmark = [
    needs_mosquitto,
    needs_openssl,
    # paho leaves the socket of a handshake that failed to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("fleet")) as found:
        yield found


class Board:
    """An agent's enrolment in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.settings, folder = load_agent(path)
        folder.mkdir(exist_ok=True)
        self.identity = Path(self.settings.broker.certificate)
        self.ended = threading.Event()
        self.outcome: list[bool] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.outcome.append(enrolled(self.settings, self.ended.is_set))

    def end(self) -> None:
        self.ended.set()
        self.thread.join(20)


def connects(broker: Broker, name: str) -> bool:
    bus = MqttBus(broker, name)
    bus.close()
    return bus.connections == 1


def test_a_board_with_a_claim_gets_a_certificate_and_the_claim_is_gone(fleet: World, tmp_path: Path) -> None:
    path = settings(tmp_path / "board", fleet, "pump-1")
    claim(fleet.pki, tmp_path / "board" / "claim.pem")
    board = Board(path)
    with desk(fleet) as at:
        assert until(lambda: (at.step(0.05), board.outcome)[1] == [True])
    board.end()
    assert mode(board.identity) == 0o600
    assert not (tmp_path / "board" / "claim.pem").exists()
    assert [each.name for each in (tmp_path / "board" / "state").iterdir()] == ["identity.pem"]
    assert connects(board.settings.broker, "pump-1")


def test_an_operator_accepts_and_the_device_is_told_at_once(
    fleet: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = settings(tmp_path / "board", fleet, "pump-2")
    claim(fleet.pki, tmp_path / "board" / "claim.pem", accepts=False)
    board, ledger = Board(path), Ledger(fleet.pki)

    def state() -> str:
        return next((each.state for each in ledger.claims() if each.wants == "pump-2"), "")

    with desk(fleet) as at:
        assert until(lambda: (at.step(0.05), state())[1] == "pending")
        assert not board.outcome
        (key,) = (each.key for each in ledger.claims() if each.wants == "pump-2")
        assert f"with key {key[:16]}" in caplog.text  # for the operator to compare
        claims.settle(ledger, "pump-2", "accepted")
        assert until(lambda: (at.step(0.05), board.outcome)[1] == [True])
    assert state() == "issued"
    ledger.close()
    board.end()
    assert connects(board.settings.broker, "pump-2")


def test_several_boards_at_once(fleet: World, tmp_path: Path) -> None:
    boards = []
    for number in range(10, 16):
        path = settings(tmp_path / f"board-{number}", fleet, f"pump-{number}")
        claim(fleet.pki, path.parent / "claim.pem")
        boards.append(Board(path))
    with desk(fleet) as at:
        assert until(lambda: (at.step(0.05), all(board.outcome for board in boards))[1])
    for board in boards:
        board.end()
        assert connects(board.settings.broker, board.settings.device)


def test_a_board_is_refused_says_why_and_asks_again(
    fleet: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = settings(tmp_path / "board", fleet, "pump-3", group="line-4")
    claim(fleet.pki, tmp_path / "board" / "claim.pem")
    board = Board(path)
    with desk(fleet) as at:
        said = "the enrolment desk says refused: the claim is for group line-3, not line-4"
        assert until(lambda: (at.step(0.05), caplog.text.count(said) >= 2)[1], 60)
    board.end()
    assert board.outcome == [False]
    assert not board.identity.exists()
    assert (tmp_path / "board" / "claim.pem").exists()


def test_an_expired_claim_is_told_so_by_the_broker(
    fleet: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = claim(fleet.pki, tmp_path / "claim.pem", days=1 / 86_400)
    assert until(lambda: time.time() > path.stat().st_mtime + 2)
    with pytest.raises(BusDown, match="our certificate has expired"):
        MqttBus(fleet.as_(path), "claim-x")
    (tmp_path / "board").mkdir()
    path.rename(tmp_path / "board" / "claim.pem")
    board = Board(settings(tmp_path / "board", fleet, "pump-7"))
    assert until(lambda: "claim.pem has expired, by this clock; have a new one made" in caplog.text)
    board.end()


def test_a_revoked_device_is_told_so_by_the_broker(fleet: World, tmp_path: Path) -> None:
    path = settings(tmp_path / "board", fleet, "pump-4")
    claim(fleet.pki, tmp_path / "board" / "claim.pem")
    board = Board(path)
    with desk(fleet) as at:
        assert until(lambda: (at.step(0.05), board.outcome)[1] == [True])
    board.end()
    assert connects(board.settings.broker, "pump-4")
    revocation.revoke(fleet.pki, "pump-4", time.time())
    fleet.broker.send_signal(signal.SIGHUP)

    def refusal() -> str:
        try:
            MqttBus(board.settings.broker, "pump-4").close()
        except BusDown as error:
            return str(error)
        return ""

    assert until(lambda: "it says that our certificate was revoked" in refusal())
    assert connects(fleet.link("cloud"), "pumps-cloud")


def enrols(fleet: World, folder: Path, name: str) -> Board:
    """Let a board go through what it does at its start, with a desk."""
    board = Board(settings(folder, fleet, name))
    with desk(fleet) as at:
        assert until(lambda: (at.step(0.05), board.outcome)[1] == [True], 60)
    board.end()
    return board


def test_a_new_claim_enrols_a_device_anew_once_it_was_revoked(
    fleet: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spare = claim(fleet.pki, tmp_path / "spare.pem")  # made before: it lay in a drawer
    (tmp_path / "board").mkdir()
    claim(fleet.pki, tmp_path / "board" / "claim.pem")
    first = enrols(fleet, tmp_path / "board", "pump-5").identity.read_bytes()
    placed = spare.rename(tmp_path / "board" / "claim.pem")
    assert enrols(fleet, tmp_path / "board", "pump-5").identity.read_bytes() == first
    assert "goes on with the certificate that it has" in caplog.text
    assert placed.exists()
    revocation.revoke(fleet.pki, "pump-5", time.time())
    board = enrols(fleet, tmp_path / "board", "pump-5")
    assert board.identity.read_bytes() != first
    assert not placed.exists()
    assert [path.name for path in board.identity.parent.iterdir()] == ["identity.pem"]
    fleet.broker.send_signal(signal.SIGHUP)
    assert connects(board.settings.broker, "pump-5")


def test_the_claim_that_has_served_is_scrubbed_when_it_is_put_there_again(fleet: World, tmp_path: Path) -> None:
    (tmp_path / "board").mkdir()
    path = claim(fleet.pki, tmp_path / "board" / "claim.pem")
    kept = path.read_bytes()
    first = enrols(fleet, tmp_path / "board", "pump-6").identity.read_bytes()
    path.write_bytes(kept)
    assert enrolled(load_agent(tmp_path / "board" / "agent.toml")[0], lambda: pytest.fail("it asked"))
    assert not path.exists()
    assert (tmp_path / "board" / "state" / "identity.pem").read_bytes() == first


@contextmanager
def agent(path: Path) -> Iterator[Callable[[], str]]:
    """The agent's own process; what is yielded returns its log so far."""
    log = path.with_name("agent.log")
    process = kill_points.process(log, "fedfleet.edge", "--settings", str(path))
    try:
        yield log.read_text
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()


def test_the_agent_enrols_connects_and_ends_when_it_is_told(fleet: World, tmp_path: Path) -> None:
    path = settings(tmp_path / "board", fleet, "pump-8")
    claim(fleet.pki, tmp_path / "board" / "claim.pem")
    with agent(path) as said:
        assert until(lambda: "asks for a certificate by claim-" in said(), 60)  # and nobody answers
    with agent(path) as said, desk(fleet) as at:
        assert until(lambda: (at.step(0.05), "device pump-8 of fleet pumps is ready, start 2" in said())[1], 60)
    with agent(path) as said:
        assert until(lambda: "device pump-8 of fleet pumps is ready, start 3" in said(), 60)
    assert "asks for a certificate" not in said().partition("start 2")[2]
