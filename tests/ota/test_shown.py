"""What an operator is shown of versions and releases, and the settings of both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import run

from fedfleet.cloud import fleet
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.notes import Notes, Standing
from fedfleet.cloud.presence import Presence
from fedfleet.cloud.settings import load_aggregator
from fedfleet.edge.settings import load_agent
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Status
from fedfleet.wire.record import Mismatch
from fedfleet.wire.release import said

BACK = said("0.2.0", "back", "to 0.1.0 after 3 starts: it ended before it said anything")


def noted(folder: Path, **statuses: Status) -> None:
    """Note what devices say, as an aggregator does."""
    journal = Journal(folder)
    notes, presence = Notes(folder), Presence()
    for name, status in statuses.items():
        presence.see(name, status)
    notes.devices(presence, Standing("mill"))
    notes.close()
    journal.close()


def test_versions_and_releases_are_listed_where_a_device_says_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "260")
    noted(tmp_path / "state", d1=Status("ready", 1, version="0.1.0", release=BACK), d2=Status("ready", 1))
    found = fleet.devices(tmp_path / "state")
    assert [(each.version, each.release) for each in found] == [("0.1.0", BACK), ("", "")]
    table = run("fleet", "list", str(tmp_path / "state"))
    assert "version" in table and "release" in table and BACK in table
    shown = run("fleet", "show", str(tmp_path / "state"), "d1")
    assert "0.1.0" in shown and BACK in shown
    assert "version" not in run("fleet", "show", str(tmp_path / "state"), "d2")


def test_without_such_the_list_is_as_narrow_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "260")
    noted(tmp_path / "state", d1=Status("ready", 1))
    assert "version" not in run("fleet", "list", str(tmp_path / "state"))


@pytest.mark.parametrize("field", ["version", "release"])
def test_a_status_says_no_more_than_it_may(field: str) -> None:
    with pytest.raises(Mismatch):
        Status("ready", 1, **{field: "1" * 201})
    with pytest.raises(Mismatch):
        Status("ready", 1, **{field: "1\x1b[2J"})


def test_both_sides_have_their_settings(tmp_path: Path) -> None:
    agent, cloud = tmp_path / "agent.toml", tmp_path / "fleet.toml"
    agent.write_text('device = "d1"\nfleet = "mill"\n[release]\nroot = "root.json"\ntrial = 60\n')
    assert (load_agent(agent)[0].release.root, load_agent(agent)[0].release.trial) == ("root.json", 60.0)
    agent.write_text('device = "d1"\nfleet = "mill"\n')
    assert (load_agent(agent)[0].release.root, load_agent(agent)[0].release.trial) == ("", 21_600.0)
    agent.write_text('device = "d1"\nfleet = "mill"\n[release]\ntrial = 0\n')
    with pytest.raises(SettingsError, match=r"release: trial must be above 0 seconds"):
        load_agent(agent)
    cloud.write_text('fleet = "mill"\nmodel = "model"\n[releases]\nrepository = "releases"\n')
    assert load_aggregator(cloud).releases.repository == "releases"
