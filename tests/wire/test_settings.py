"""Settings files and broker addresses: one line for each mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.settings import MAX_FILE, Broker, load, parse_broker


@dataclass(frozen=True)
class Sample:
    name: str
    rate: float = 0.5
    broker: Broker = field(default_factory=Broker)


def loaded(tmp_path: Path, content: bytes) -> Sample:
    (tmp_path / "s.toml").write_bytes(content)
    return load(tmp_path / "s.toml", Sample)


def test_a_file_becomes_one_frozen_tree(tmp_path: Path) -> None:
    found = loaded(tmp_path, b'name = "n"\nrate = 1\n[broker]\nport = 8883\n')
    assert found == Sample("n", 1.0, Broker(port=8883))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'nam = "n"', "unknown setting nam; known here: name, rate, broker"),
        (b'name = "n"\n[broker]\nhots = 1', "unknown setting broker.hots; known here: host, port"),
        (b"name = 1", "name must be str, not int"),
        (b'name = "n"\nrate = "1"', "rate must be float, not str"),
        (b'name = "n"\nrate = inf', "rate must be a finite number"),
        (b'name = "n"\n[broker]\nkeepalive = 1', "broker: keepalive must be 5 to 65535 seconds"),
        (b'name = "n"\n[broker]\nhost = ""', "broker: host must not be empty"),
        (b'name = "n"\n[broker]\ntransport = "http"', "broker: transport must be tcp or websockets"),
        (b'name = "n"\n[broker]\npath = "mqtt"', "broker: path must begin with /"),
        (b'name = "n"\n[broker]\nca = "ca.pem"', "broker: ca is of no use without tls = true"),
        (b'name = "n"\n[broker]\ntls = true\nkey = "k"', "broker: certificate and key belong together: set both"),
        (b'name = "n"\n[broker]\ntls = 1', "broker.tls must be bool, not int"),
        (b'name = "n"\n[broker]\ninsecure = true', "unknown setting broker.insecure; known here: host, port"),
        (b"rate = 1", "name is missing"),
        (b"name", "not TOML: "),
        (b'name = "\xff"', "cannot be read: "),
        (b"#" * (MAX_FILE + 1), f"a settings file has at most {MAX_FILE} bytes"),
    ],
)
def test_mistakes_are_one_line_with_file_and_key(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/s.toml: {reason}")
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Outer:
    inner: Sample


def test_files_of_a_broker_are_relative_to_the_settings_file(tmp_path: Path) -> None:
    table = b'broker]\ntls = true\nca = "ca.pem"\ncertificate = "own/a.pem"\nkey = "/etc/a.key"\n'
    wanted = Broker(tls=True, ca=f"{tmp_path}/ca.pem", certificate=f"{tmp_path}/own/a.pem", key="/etc/a.key")
    assert loaded(tmp_path, b'name = "n"\n[' + table).broker == wanted
    (tmp_path / "s.toml").write_bytes(b'[inner]\nname = "n"\n[inner.' + table)
    assert load(tmp_path / "s.toml", Outer).inner.broker == wanted


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent.toml: no such settings file"):
        load(tmp_path / "absent.toml", Sample)
    with pytest.raises(SettingsError, match="cannot be read: .*Is a directory"):
        load(tmp_path, Sample)


def test_the_password_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Broker().password is None
    monkeypatch.setenv("MILL_PASSWORD", "secret")
    broker = Broker(username="u", password_env="MILL_PASSWORD")
    assert broker.password == "secret"
    assert "secret" not in repr(broker)
    monkeypatch.delenv("MILL_PASSWORD")
    with pytest.raises(SettingsError, match="broker.password_env names MILL_PASSWORD, which is not set"):
        assert broker.password


def test_broker_addresses() -> None:
    assert parse_broker("mill.local") == Broker("mill.local", 1883)
    assert parse_broker("mill.local:8883") == Broker("mill.local", 8883)


@pytest.mark.parametrize("address", ["", ":1883", "mill:", "mill:x", "mill:-1", "mill:0", "mill:65536"])
def test_broker_addresses_that_are_none_are_named(address: str) -> None:
    with pytest.raises(SettingsError, match=f"^broker '{address}'"):
        parse_broker(address)
