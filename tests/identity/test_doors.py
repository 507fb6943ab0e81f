"""The aggregator shuts out whom the ledger has revoked, in the middle of a round too, and lets others in by the desk."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from brokers import needs_mosquitto
from certificates import needs_openssl
from commands import run
from federations import DEADLINE, TOPICS, World, fedavg
from identities import FLEET, claim, made, settings, world
from identities import World as Fleet
from processes import environment, until

from fedfleet.cloud.fleet import devices
from fedfleet.cloud.identity.doors import LOOK, Denied, Watch, doors
from fedfleet.cloud.identity.ledger import Certificate, Ledger
from fedfleet.cloud.registry import versions
from fedfleet.cloud.settings import AggregatorSettings, Identity, Rounds, load_aggregator
from fedfleet.edge.agent import Agent, birth, death
from fedfleet.edge.enrol import enrolled
from fedfleet.edge.settings import load_agent
from fedfleet.edge.state import State
from fedfleet.edge.trainer import Stop
from fedfleet.models.compiled import Compiled, Entry
from fedfleet.sim.trainers import SeededTrainer
from fedfleet.wire.bus import Will
from fedfleet.wire.errors import SettingsError, StoreError
from fedfleet.wire.messages import Status, Task, Update, encode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.topics import Topics

ROUNDS = Rounds(total=3, devices=2, deadline=DEADLINE)


class Guest(World):
    """A federation whose list of the denied a test writes."""

    def deny(self, *names: str) -> None:
        found = Denied("test", frozenset(names))
        self.cloud._denied = lambda: found


def test_who_is_revoked_between_rounds_counts_no_more(tmp_path: Path) -> None:
    found = Guest(tmp_path, rounds=ROUNDS)
    found.until(2)
    found.deny("d1")
    all_, rest = found.examples(), found.examples("d0", "d2")
    assert found.play() == fedavg({1: all_, 2: rest, 3: rest})
    assert [(record.state, record.reported) for record in found.records] == [
        ("closed", 3),
        ("closed", 2),
        ("closed", 2),
    ]
    assert found.now < DEADLINE  # nobody has waited for it
    assert "d1" not in found.cloud.presence.statuses


@pytest.mark.parametrize("steps", range(0, 24, 2))
def test_who_is_revoked_in_the_middle_of_a_round_counts_no_more(tmp_path: Path, steps: int) -> None:
    found = Guest(tmp_path, rounds=ROUNDS)
    found.until(2)
    for step in range(steps):
        found.act(step % 4)
    number = found.cloud.progress()[0]
    found.deny("d1")
    found.act(0)
    before = {each for each in found.journal.counted(1, number + 1) if each[1] == "d1"}
    found.play()
    assert {each for each in found.journal.counted(1, 99) if each[1] == "d1"} == before
    assert {record.state for record in found.records} == {"closed"}
    assert found.now < DEADLINE


def test_who_is_let_in_again_counts_again(tmp_path: Path) -> None:
    found = Guest(tmp_path, rounds=ROUNDS)
    found.deny("d1")
    found.until(2)
    assert not {each for each in found.journal.counted(1, 2) if each[1] == "d1"}
    found.deny()
    found.agents.pop("d1")[1].close()
    found.device_starts("d1")
    found.play()
    assert {each for each in found.journal.counted(1, 99) if each[1] == "d1"}


@pytest.mark.parametrize("name", ["claim-0123456789ab", "test-cloud", "test-enrol", "test-operator"])
def test_a_status_under_a_name_of_our_own_is_dropped(tmp_path: Path, name: str) -> None:
    found = Guest(tmp_path, rounds=ROUNDS)
    found.deny()
    found.cloud.step(0)
    found.hub.connect().publish(TOPICS.status(name), encode(Status("ready", 1)), retain=True)
    found.cloud.step(0)
    assert set(found.cloud.presence.statuses) == {"d0", "d1", "d2"}


def test_the_ledger_is_looked_at_once_a_second(tmp_path: Path) -> None:
    ledger, now = Ledger(tmp_path, new=True), [0.0]
    watch = Watch("pumps", ledger, lambda: now[0])
    first = watch()
    ledger.certify(Certificate("1", "pump-1", "g", "", "k", "pem", 1.0, 9.0))
    ledger.revoke("pump-1", 2.0)
    now[0] = LOOK - 0.01
    assert watch() is first
    now[0] = LOOK
    assert watch() is not first
    assert "pump-1" in watch()
    assert "claim-0123456789ab" in watch()
    assert "pump-2" not in watch()
    second = watch()
    now[0] += LOOK
    assert watch() is second  # nothing has changed
    ledger.close()


def test_those_that_were_revoked_stay_out_when_the_ledger_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, now = Ledger(tmp_path, new=True), [0.0]
    ledger.certify(Certificate("1", "pump-1", "g", "", "k", "pem", 1.0, 9.0))
    ledger.revoke("pump-1", 2.0)
    watch = Watch("pumps", ledger, lambda: now[0])
    ledger._run("DROP TABLE certificates")
    now[0] = LOOK
    assert "pump-1" in watch()
    assert "stay shut out" in caplog.text
    ledger.close()


def test_without_an_authority_all_doors_are_open(tmp_path: Path) -> None:
    with doors(tmp_path, AggregatorSettings("pumps", "model")) as found:
        assert "claim-0123456789ab" not in found.denied()
        found.desk()


@pytest.mark.parametrize(
    ("fleet", "text"), [("mills", "authority of fleet pumps, not of mills"), ("pumps", r"needs broker.tls = true")]
)
def test_an_authority_that_does_not_fit_the_settings(tmp_path: Path, fleet: str, text: str) -> None:
    made(tmp_path / "pki")
    wanted = AggregatorSettings(fleet, "model", identity=Identity("pki"))
    with pytest.raises(SettingsError, match=text), doors(tmp_path, wanted):
        pass


def test_without_the_authoritys_key_there_is_a_list_and_no_desk(tmp_path: Path) -> None:
    pki = made(tmp_path / "pki")
    (pki / "ca.key").unlink()
    with doors(tmp_path, AggregatorSettings(FLEET, "model", identity=Identity("pki"))) as found:
        assert "claim-0123456789ab" in found.denied()
        found.desk()
    (pki / "identity.sqlite").unlink()
    with (
        pytest.raises(StoreError, match="no such ledger"),
        doors(tmp_path, AggregatorSettings(FLEET, "model", identity=Identity("pki"))),
    ):
        pass


class Slow(SeededTrainer):
    """Trains when it is told to."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.begun, self.go = threading.Event(), threading.Event()

    def train(self, task: Task, program: Path, weights: Path, stop: Stop) -> Update | None:
        """Wait for the word."""
        self.begun.set()
        assert self.go.wait(60)
        return super().train(task, program, weights, stop)


@contextmanager
def device(name: str, base: Path, fleet: Fleet, trainer: SeededTrainer) -> Iterator[None]:
    """A board that enrols by a claim and then follows the fleet's tasks, in a thread."""
    path, over, topics = settings(base / name, fleet, name), threading.Event(), Topics(FLEET)
    claim(fleet.pki, base / name / "claim.pem")

    def live() -> None:
        found, folder = load_agent(path)
        state = State(folder)
        state.begin()
        if enrolled(found, over.is_set):
            bus = MqttBus(found.broker, name, Will(topics.status(name), birth(state), death(state)))
            Agent(name, topics, bus, state, trainer, time.monotonic).run(over.is_set)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        over.set()
        trainer.go.set() if isinstance(trainer, Slow) else None
        thread.join(20)


def cloud(base: Path, fleet: Fleet) -> Path:
    """The settings of an aggregator that has the fleet's authority beside it."""
    model = Compiled(
        b"program", np.zeros(40, np.float32), (Entry("w", (40,), 0, 40),), "mean_squared_error", 4, (2,), (1,)
    )
    model.save(base / "model")
    at = fleet.link("cloud")
    text = f'fleet = "{FLEET}"\nmodel = "model"\n[identity]\npki = "pki"\n[rounds]\ntotal = 2\ndevices = 2\n[broker]\n'
    text += f'host = "{at.host}"\nport = {at.port}\ntls = true\nca = "pki/ca.pem"\n'
    text += 'certificate = "pki/cloud.pem"\nkey = "pki/cloud.key"\n'
    (base / "fleet.toml").write_text(text)
    assert load_aggregator(base / "fleet.toml").identity.pki == "pki"
    return base / "fleet.toml"


@needs_mosquitto
@needs_openssl
def test_boards_enrol_while_the_aggregator_runs_and_one_that_is_revoked_counts_no_more(tmp_path: Path) -> None:
    with world(tmp_path) as fleet:
        command = [sys.executable, "-m", "fedfleet.cli.main", "aggregate", str(cloud(tmp_path, fleet))]
        said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, env=environment(), text=True, **said) as process:
            try:
                slow = Slow("pump-2")
                with (
                    device("pump-1", tmp_path, fleet, SeededTrainer("pump-1")),
                    device("pump-2", tmp_path, fleet, slow),
                ):
                    assert slow.begun.wait(60)
                    assert until(lambda: len(devices(tmp_path / "state")) == 2)
                    assert "pump-2 is revoked" in run("pki", "revoke", str(fleet.pki), "pump-2")
                    out, _ = process.communicate(timeout=60)
                    slow.go.set()
            finally:
                process.kill()
    assert process.returncode == 0, out
    assert "pump-2 is shut out from now on" in out
    assert [version.contributors for version in versions(tmp_path / "state")] == [{"pump-1": 10}] * 2
