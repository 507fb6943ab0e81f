"""A board killed at each step of its enrolment, over a real mosquitto: the same certificate once, and nothing is left."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import needs_mosquitto
from certificates import needs_openssl
from faults.kill_points import process
from identities import World, claim, desk, mode, settings, world
from processes import until

from fedfleet.cloud.identity.desk import Desk
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.edge.enrol import enrolled
from fedfleet.edge.settings import load_agent

pytestmark = [needs_mosquitto, needs_openssl]
TOGETHER = 8  # boards that are killed, and start again, at a time
PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", re.DOTALL)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("fleet")) as found:
        yield found


@pytest.fixture(scope="module")
def at(fleet: World) -> Iterator[Desk]:
    with desk(fleet) as found:
        yield found


def board(fleet: World, folder: Path, name: str) -> tuple[Path, bytes]:
    """A new board's settings, and the secret of its claim."""
    path = settings(folder, fleet, name)
    secret = PRIVATE.findall(claim(fleet.pki, folder / "claim.pem").read_bytes())[0]
    return path, secret


def start(path: Path, at: int) -> subprocess.Popen[bytes]:
    folder = path.parent.parent
    trace = folder / f"{path.parent.name}.trace{at}"
    return process(folder / f"{path.parent.name}.log", "faults.killed_enrolment", str(trace), str(at), str(path))


def ends(agent: subprocess.Popen[bytes], at: Desk) -> int:
    assert until(lambda: (at.step(0.02), agent.poll() is not None)[1], 60)
    return int(agent.wait())


def points(fleet: World, at: Desk, base: Path) -> list[str]:
    path, _ = board(fleet, base / "whole", "whole")
    assert ends(start(path, 0), at) == 0
    return (base / "whole.trace0").read_text().splitlines()


def certified(fleet: World, name: str) -> int:
    ledger = Ledger(fleet.pki)
    try:
        return len([each for each in ledger.certificates() if each.name == name])
    finally:
        ledger.close()


def left(folder: Path) -> set[str]:
    """All files of a board but its settings."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"agent.toml"}


def test_a_board_that_is_killed_anywhere_enrols_once(fleet: World, at: Desk, tmp_path: Path) -> None:
    whole = points(fleet, at, tmp_path)
    kinds = {" ".join(point.split()[:2]) for point in whole}
    assert {"before openssl", "after replace", "after fsync", "before unlink", "delivered answer"} <= kinds, whole
    boards = {
        number: board(fleet, tmp_path / f"pump-{number}", f"pump-{number}") for number in range(1, len(whole) + 1)
    }
    for first in range(1, len(whole) + 1, TOGETHER):
        some = [number for number in boards if first <= number < first + TOGETHER]
        for codes, points_ in ((-9, some), (0, [0] * len(some))):
            agents = [start(boards[number][0], point) for number, point in zip(some, points_)]
            assert [ends(agent, at) for agent in agents] == [codes] * len(some), [whole[number - 1] for number in some]
    for number, (path, secret) in boards.items():
        where, identity = f"killed at {number}: {whole[number - 1]}", path.parent / "state" / "identity.pem"
        assert left(path.parent) == {"state/identity.pem"}, where
        assert certified(fleet, f"pump-{number}") == 1, where
        assert mode(identity) == 0o600, where
        assert secret not in identity.read_bytes(), where
        assert len(PRIVATE.findall(identity.read_bytes())) == 1, where


def test_a_file_that_is_scrubbed_has_no_secret_left_under_any_other_name(
    fleet: World, at: Desk, tmp_path: Path
) -> None:
    """A second name of the file, as a copy of the boot partition has it, shows what the overwriting left."""
    path, secret = board(fleet, tmp_path / "pump", "pump-raw")
    raw = tmp_path / "raw"
    raw.hardlink_to(path.parent / "claim.pem")
    assert secret in raw.read_bytes()
    assert ends(start(path, 0), at) == 0
    assert set(raw.read_bytes()) == {0}


def test_the_next_key_is_nowhere_once_it_is_in_use(fleet: World, at: Desk, tmp_path: Path) -> None:
    """Killed between the certificate and the scrubbing, the next start does it, without a broker."""
    path, _ = board(fleet, tmp_path / "pump", "pump-late")
    assert ends(start(path, 0), at) == 0
    identity = path.parent / "state" / "identity.pem"
    key = b"-----BEGIN PRIVATE KEY-----\n" + PRIVATE.findall(identity.read_bytes())[0] + b"-----END PRIVATE KEY-----\n"
    pending = identity.with_name("identity.pem.pump-late")
    pending.write_bytes(key)
    (path.parent / "claim.pem").write_bytes(bytes(1000))  # overwritten, and not removed yet
    assert enrolled(load_agent(path)[0], lambda: pytest.fail("it asked"))
    assert left(path.parent) == {"state/identity.pem"}


def test_without_claim_and_certificate_the_agent_says_what_to_do(fleet: World, tmp_path: Path) -> None:
    path = settings(tmp_path / "pump", fleet, "pump-none")
    ended = subprocess.run(
        [sys.executable, "-m", "fedfleet.edge", "--settings", str(path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "is no claim" in ended.stderr
    assert "fedfleet enrol claim" in ended.stderr
