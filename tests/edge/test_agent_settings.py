"""The agent's settings file: one line for each mistake, with file and key."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest

from fedfleet.edge.data import Store
from fedfleet.edge.guards import Guards
from fedfleet.edge.settings import AgentSettings, load_agent
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.settings import Broker

EXAMPLE = Path(__file__).parents[2] / "edge" / "agent.example.toml"
HEAD = 'device = "d1"\nfleet = "mill"\n'


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "agent.toml").write_text(text)
    return tmp_path / "agent.toml"


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    settings, folder = load_agent(written(tmp_path, HEAD))
    assert (settings.device, settings.fleet, settings.broker) == ("d1", "mill", Broker())
    assert folder == tmp_path / "state"


def test_a_group_is_one_more_tag(tmp_path: Path) -> None:
    assert load_agent(written(tmp_path, HEAD + 'group = "g"\ntags = ["a"]'))[0].all_tags == ("a", "g")
    assert load_agent(written(tmp_path, HEAD + 'group = "a"\ntags = ["a"]'))[0].all_tags == ("a",)
    assert load_agent(written(tmp_path, HEAD))[0].all_tags == ()


@pytest.mark.parametrize(("ca", "found"), [("", "identity.pem"), ('ca = "ca.pem"\n', "ca.pem")])
def test_a_claim_is_relative_to_the_file_and_brings_the_authority(tmp_path: Path, ca: str, found: str) -> None:
    own = 'certificate = "identity.pem"\nkey = "identity.pem"\n'
    text = f'{HEAD}[broker]\ntls = true\n{own}{ca}[enrol]\nclaim = "claim.pem"\n'
    settings, _ = load_agent(written(tmp_path, text))
    assert settings.enrol.claim == str(tmp_path / "claim.pem")
    assert settings.broker.ca == str(tmp_path / found)


def test_the_state_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    assert load_agent(written(tmp_path, HEAD + 'state = "a/b"'))[1] == tmp_path / "a" / "b"
    assert load_agent(written(tmp_path, HEAD + 'state = "/var/lib/x"'))[1] == Path("/var/lib/x")


def test_the_least_store_that_may_be_asked_for_can_be_opened(tmp_path: Path) -> None:
    settings, folder = load_agent(written(tmp_path, HEAD + f"max_example_bytes = {2**21}"))
    assert len(Store.open(folder, settings.max_example_bytes)) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            HEAD + "stat = 1",
            "unknown setting stat; known here: device, fleet, state, max_example_bytes, max_spool_bytes, broker",
        ),
        (
            HEAD + '[broker]\nhots = "x"',
            "unknown setting broker.hots; known here: host, port, keepalive, username, pass",
        ),
        (HEAD + '[broker]\nport = "1883"', "broker.port must be int, not str"),
        (HEAD + "[broker]\nport = 0", "broker: port must be 1 to 65535"),
        (HEAD + "broker = 7", "broker must be a table, not int"),
        (HEAD + "max_example_bytes = 2097151", "max_example_bytes must be at least 2097152"),
        (HEAD + "max_example_bytes = true", "max_example_bytes must be int, not bool"),
        ('device = "d1"', "fleet is missing"),
        ('device = "D1"\nfleet = "mill"', "device must be 1 to 36 characters of a-z, 0-9 and -"),
        ('device = "d1"\nfleet = ""', "fleet must be 1 to 36 characters"),
        (HEAD + 'tags = ["Camera"]', "each of tags must be 1 to 36 characters of a-z, 0-9 and -"),
        (HEAD + f"tags = {['t'] * 17}", "there may be at most 16 tags"),
        (HEAD + 'tags = "camera"', "tags must be a list, not str"),
        (HEAD + 'group = "Line"', "group must be 1 to 36 of a-z, 0-9 and -"),
        (HEAD + f"group = 'g'\ntags = {[f't{i}' for i in range(16)]}", "there may be at most 16 tags"),
        (HEAD + '[enrol]\nclaim = "c.pem"', "enrol.claim needs broker.certificate and broker.key, one file for both"),
        (
            HEAD + '[broker]\ntls = true\ncertificate = "a"\nkey = "b"\n[enrol]\nclaim = "c.pem"',
            "enrol.claim needs broker.certificate and broker.key, one file for both",
        ),
        ("device = ", "not TOML: "),
        ("", "device is missing"),
    ],
)
def test_mistakes_are_one_line_with_file_and_key(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_agent(written(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'agent.toml'}: {reason}")
    assert "\n" not in str(caught.value)


def test_the_example_names_every_setting_there_is() -> None:
    def named(cls: Any, table: dict[str, Any], path: str = "") -> None:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if path == "source.readings.broker.":
                continue  # its keys are those of the broker above
            assert field.name in table, f"{path}{field.name} is not in {EXAMPLE.name}"
            inner = [
                hint
                for hint in (hints[field.name], *typing.get_args(hints[field.name]))
                if dataclasses.is_dataclass(hint)
            ]
            if inner:
                named(inner[0], table[field.name], f"{path}{field.name}.")

    settings, _ = load_agent(EXAMPLE)
    assert settings.collects
    named(AgentSettings, tomllib.loads(EXAMPLE.read_text()))


def test_what_the_example_calls_a_default_is_one() -> None:
    said = EXAMPLE.read_text().splitlines()
    settings, _ = load_agent(EXAMPLE)
    assert settings.guards == Guards()
    assert settings.broker == Broker()
    assert settings.max_example_bytes == AgentSettings("d", "f").max_example_bytes
    for source in (settings.source.folder, settings.source.readings, settings.source.python):
        assert dataclasses.is_dataclass(source)
        for field in dataclasses.fields(source):
            if field.default is dataclasses.MISSING:
                assert any(line.startswith(f"{field.name} = ") and "such as" in line for line in said)
            elif getattr(source, field.name) != field.default:
                assert field.name in ("label", "label_topic", "broker")
