"""A repository, its keys in several hands, and `fedfleet release` as the owner meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from brokers import free_port, mosquitto, needs_mosquitto
from ota.boards import bundle_of, describe
from ota.owners import Owner
from typer.testing import CliRunner

from fedfleet.cli.main import app
from fedfleet.cloud.releases import bundles, keys
from fedfleet.cloud.releases.published import listed, published
from fedfleet.cloud.releases.repository import Repository
from fedfleet.edge.ota.choice import board
from fedfleet.edge.ota.trust import Trust
from fedfleet.wire.errors import DataError, FedfleetError, SettingsError, StoreError
from fedfleet.wire.messages import decode
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.release import Release
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

SETTINGS = 'fleet = "mill"\nmodel = "model"\n'


def made(folder: Path, version: str = "2.0.0", text: bytes = b"1") -> Path:
    return bundle_of(folder / f"b-{version}-{text.decode()}", version, {"agent": {"a.py": text}})


def hand(owner: Owner, to: Path, *names: str) -> Path:
    """Move keys to a folder of their own."""
    to.mkdir()
    for name in names:
        (owner.keys / f"{name}.pem").rename(to / f"{name}.pem")
    return to


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    assert {path.name for path in owner.keys.iterdir()} == {
        "root-1.pem",
        "root-2.pem",
        "targets-1.pem",
        "snapshot-1.pem",
        "timestamp-1.pem",
    }
    assert {path.stat().st_mode & 0o777 for path in owner.keys.iterdir()} == {0o600}
    assert owner.keys.stat().st_mode & 0o777 == 0o700


def test_a_release_counts_when_enough_hands_have_signed_it(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "o", {"targets": 2}, targets=2)
    other = hand(owner, tmp_path / "other", "targets-2")
    before = owner.bytes("timestamp")
    _, missing = bundles.add(Repository(owner.repo), made(tmp_path), keys.load(owner.keys))
    assert missing == "targets.json 2 has 1 of 2 signatures that it needs"
    assert (listed(owner.repo), owner.bytes("timestamp")) == ([], before)
    shutil.copy(owner.keys / "snapshot-1.pem", other)
    with pytest.raises(SettingsError, match=r"timestamp.json 2 has 0 of 1 signatures that it needs; name the folder"):
        Repository(owner.repo).sign(keys.load(other))
    shutil.copy(owner.keys / "timestamp-1.pem", other)
    assert Repository(owner.repo).sign(keys.load(other)) == ""
    assert [each.version for each in listed(owner.repo)] == ["2.0.0"]
    assert not list((owner.repo / "staged").iterdir())


def test_new_root_keys_count_when_the_old_ones_have_agreed(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "o")
    other = hand(owner, tmp_path / "other", "root-2")
    found = Repository(owner.repo)
    new = keys.make(owner.keys, "root", 2)
    assert found.rotate("root", new, 2, keys.load(owner.keys)) == "root.json 2 has 1 of 2 signatures that it needs"
    assert json.loads(owner.roots()) == []
    before = owner.bytes("timestamp")
    assert Repository(owner.repo).sign(keys.load(other)) == ""  # without those of snapshot and timestamp
    assert owner.bytes("timestamp") == before
    trust = Trust(tmp_path / "trust.json", owner.anchor())
    trust.roots(owner.roots())
    assert trust.root.version == 2


def test_a_version_is_made_once(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "o")
    owner.release(made(tmp_path))
    with pytest.raises(SettingsError, match="another bundle of version 2.0.0 is there"):
        owner.release(made(tmp_path, text=b"2"))
    owner.release(made(tmp_path, "2.1.0"))
    owner.release(tmp_path / "b-2.0.0-1")
    assert [(each.serial, each.version) for each in listed(owner.repo)] == [(2, "2.1.0"), (3, "2.0.0")]


def test_a_bundle_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    owner, folder = Owner(tmp_path / "o"), made(tmp_path)
    wheel = next((folder / "wheels").iterdir())
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="is not what release.json says; make the bundle again"):
        owner.release(folder)
    for version in ("current", "../2.0.0", ""):
        with pytest.raises(DataError, match="is no bundle that can be read"):
            owner.release(describe(folder, version))
    (folder / "release.json").unlink()
    with pytest.raises(DataError, match="see fedfleet bundle"):
        owner.release(folder)


def test_what_is_no_repository_and_what_is_no_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no repository; make one with fedfleet release init"):
        Repository(tmp_path)
    with pytest.raises(SettingsError, match=r"holds no keys \(\*.pem\)"):
        keys.load(tmp_path)
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(SettingsError, match=r"bad.pem is no private key"):
        keys.load(tmp_path)
    owner = Owner(tmp_path / "o")
    with pytest.raises(SettingsError, match="holds a repository already"):
        Repository.init(owner.repo, {}, {})
    (owner.repo / "metadata" / "timestamp.json").write_text("{}")
    with pytest.raises(StoreError, match=r"timestamp.json cannot be read"):
        Repository(owner.repo).refresh(keys.load(owner.keys))


def run(*arguments: object) -> str:
    """Run `fedfleet release`; returns what it prints, or the one line of a mistake."""
    found = CliRunner().invoke(app, ["release", *map(str, arguments)])
    if isinstance(found.exception, FedfleetError):
        return f"refused: {found.exception}"
    assert found.exception is None, found.exception
    return found.stdout


def test_from_keys_to_a_published_release(tmp_path: Path) -> None:
    base, repo = tmp_path / "keys", tmp_path / "repo"
    said = run("init", base, repo, "--root-keys", 3, "--root-threshold", 2)
    assert f"boards get {repo}/metadata/1.root.json as root.json, named by release.root in agent.toml" in said
    assert "is not empty" in run("init", base, repo)
    here = board()
    assert run("add", repo, made(tmp_path), "--keys", base) == (
        f"version 2.0.0 for {here.machine} with Python {here.python}: signed\n"
    )
    assert run("rotate", repo, "--keys", base).endswith("signed\n")
    assert len(list(base.glob("root-*.pem"))) == 6
    assert run("rotate", repo, "--keys", base, "--role", "timestamp").endswith("signed\n")
    assert run("sign", repo, "--keys", base) == "signed\n"
    assert run("refresh", repo, "--keys", base) == "refreshed; do it again within 7 days\n"
    assert run("rotate", repo, "--keys", base, "--count", 1, "--threshold", 2).startswith(
        "refused: a threshold must be"
    )
    (tmp_path / "fleet.toml").write_text(f'{SETTINGS}[releases]\nrepository = "repo"\n')
    said = run("publish", tmp_path / "fleet.toml", repo, "2.0.0", "--groups", "line-1", "--share", 0.5)
    assert said == "version 2.0.0 is published; the aggregator of fleet mill hands it out\n"
    found = published(repo)
    assert found is not None and (found.version, found.groups, found.share) == ("2.0.0", ("line-1",), 0.5)
    assert "2.0.0" in run("list", repo) and "groups line-1, share 0.5" in run("list", repo)
    (facts,) = json.loads(run("list", repo, "--json"))
    assert (facts["version"], facts["serial"], facts["board"]) == ("2.0.0", 1, f"{here.machine}-{here.python}")
    assert sorted(facts["files"]) == ["agent-1.0-py3-none-any.whl", "release.json"]
    assert "agent-1.0-py3-none-any.whl" in run("show", repo, "2.0.0")
    assert json.loads(run("show", repo, "2.0.0", "--json")) == [facts]
    assert run("show", repo, "9.9.9").startswith("refused: ")
    assert "share must be above 0" in run("publish", tmp_path / "fleet.toml", repo, "2.0.0", "--share", 0)


@needs_mosquitto
def test_without_an_aggregator_that_knows_the_repository_it_is_handed_out_once(tmp_path: Path) -> None:
    owner, port = Owner(tmp_path / "o"), free_port()
    owner.release(made(tmp_path))
    (tmp_path / "fleet.toml").write_text(f"{SETTINGS}[broker]\nport = {port}\n")
    with mosquitto(tmp_path, port, "allow_anonymous true"):
        assert run("publish", tmp_path / "fleet.toml", owner.repo, "2.0.0").startswith(
            "version 2.0.0 is on the broker; "
        )
        bus = MqttBus(Broker(port=port), "watcher")
        bus.subscribe(Topics("mill").release)
        found = [payload for _ in range(100) for _, payload in bus.deliveries(0.1)][:1]
        bus.close()
    assert decode(Release, found[0]).version == "2.0.0"


@pytest.mark.parametrize("verb", ["", "init", "add", "sign", "refresh", "rotate", "list", "show", "publish"])
def test_help_has_examples(verb: str) -> None:
    said = run(*([verb] if verb else []), "--help")
    assert "examples" in said and f"fedfleet release {verb}" in said
