"""Whether an aggregator is well, read from its state folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedfleet.cloud import health
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.notes import Notes, Standing
from fedfleet.cloud.presence import Presence

STANDING = Standing("pumps", "fedavg", 9, 3, "waiting for more devices")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "settings.toml").write_text('fleet = "pumps"\nmodel = "model"\nstate = "state"\n')
    return tmp_path / "settings.toml"


def test_one_that_waits_for_devices_is_well_and_one_without_a_broker_is_not(settings: Path) -> None:
    journal = Journal(settings.parent / "state")
    notes = Notes(settings.parent / "state")
    notes.devices(Presence(), STANDING)
    assert health.trouble(settings) == ""
    notes.devices(Presence(), replace(STANDING, link="connection refused"))
    assert health.trouble(settings) == "the broker is out of reach: connection refused"
    notes.close()
    journal.close()
    assert health.trouble(settings) == "no aggregator holds the state folder"


def test_the_command_ends_in_an_exit_code(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(settings.parent / "state")
    for arguments, code, said in (
        ([str(settings)], 0, "well\n"),
        ([str(settings.parent / "none.toml")], 1, f"{settings.parent}/none.toml: no such settings file\n"),
        ([], 1, "name the settings file\n"),
    ):
        with pytest.raises(SystemExit) as ended:
            health.main(arguments)
        assert (ended.value.code, capsys.readouterr().out) == (code, said)
    journal.close()
