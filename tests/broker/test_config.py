"""`fedfleet broker config` and `check`: what they write, what a real mosquitto makes of it, and what they refuse."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from broker.authority import FLEET, pki
from broker.running import KINDS, Mosquitto, on_path, ours
from commands import run as command

from fedfleet.cloud.broker import server
from fedfleet.cloud.broker.conf import PACKET
from fedfleet.cloud.broker.layout import SYNTAXES
from fedfleet.sim.brokers import free_port
from fedfleet.wire.frames import MAX_BODY, MAX_HEADER

COPIES = {"ca.pem", "crl.pem", "broker.pem", "broker.key", "acl", "mosquitto.conf", "data"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The PKI folder of a fleet."""
    pki(tmp_path / "pki", free_port())
    return tmp_path / "pki"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of the mosquittos that there are, as the one that is installed."""
    with on_path(request.param):
        yield request.param


def config(*arguments: object) -> str:
    return command("broker", "config", *map(str, arguments))


def settings(folder: Path) -> list[str]:
    return (folder / "mosquitto.conf").read_text().splitlines()


@pytest.mark.parametrize("more", [(), ("--websockets", "port"), ("--gossip",), ("--syntax", "2.0")], ids=str)
def test_a_real_mosquitto_takes_what_is_written(folder: Path, kind: str, more: tuple[str, ...]) -> None:
    said = config(folder, *(str(free_port()) if word == "port" else word for word in more))
    assert f"wrote {folder / 'mosquitto.conf'}\nwrote {folder / 'acl'}\n" in said
    ours(folder)
    answer = command("broker", "check", str(folder))
    assert answer.endswith(f" takes {folder / 'mosquitto.conf'}\n"), answer
    assert " running\n" in answer
    assert "eprecated" not in answer


def test_the_syntax_is_that_of_the_mosquitto_there_is(folder: Path, kind: str) -> None:
    config(folder)
    wanted = "plugin " if (server.version() or ()) >= (2, 1) else "acl_file "
    assert [line for line in settings(folder) if line.startswith(wanted)]


def test_each_setting_has_a_line_that_says_why(folder: Path, kind: str) -> None:
    config(folder, "--websockets", free_port())
    lines = settings(folder)
    untold = [line for before, line in pairwise(lines) if line and line[0] != "#" and not before.startswith("# ")]
    assert untold == []
    assert not any(line.startswith(("connection ", "bridge", "per_listener")) for line in lines)


def test_what_decides_who_gets_in_stands_with_each_listener(folder: Path) -> None:
    port = free_port()
    said = config(folder, "--websockets", port, "--port", 443, "--syntax", "2.0")
    text = (folder / "mosquitto.conf").read_text()
    listeners = re.split(r"^listener ", text, flags=re.MULTILINE)[1:]
    assert [listener.split("\n")[0] for listener in listeners] == ["443", str(port)]
    for listener in listeners:
        for line in ("require_certificate true", "use_identity_as_username true", "use_username_as_clientid true"):
            assert f"\n{line}\n" in listener
        for line in (f"cafile {folder}/ca.pem", "tls_version tlsv1.2"):
            assert f"\n{line}\n" in listener
    assert "\nallow_anonymous false\n" in text
    assert ["protocol websockets" in listener for listener in listeners] == [False, True]
    # 2.0 ends by a segmentation fault where a WebSocket has one
    assert [f"\ncrlfile {folder}/crl.pem\n" in listener for listener in listeners] == [True, False]
    assert "lets revoked certificates in" in said


def test_the_port_is_that_of_the_pki_folder(folder: Path) -> None:
    config(folder, "--syntax", "2.0")
    port = re.search(r"port = (\d+)", (folder / "fleet.toml").read_text())
    assert port and f"listener {port[1]}" in settings(folder)


def test_the_largest_frame_passes() -> None:
    assert MAX_HEADER + MAX_BODY + 1000 < PACKET < 2_000_000  # the default of 2.1, which other brokers are near


def test_gossip_is_asked_for(folder: Path) -> None:
    config(folder, "--syntax", "2.0")
    assert "model" not in (folder / "acl").read_text()
    config(folder, "--syntax", "2.0", "--gossip")
    assert f"pattern read fedfleet/v1/{FLEET}/device/+/model/#\n" in (folder / "acl").read_text()
    assert f"pattern write fedfleet/v1/{FLEET}/device/%u/model/#\n" in (folder / "acl").read_text()


def test_another_folder_has_all_that_a_broker_needs_and_no_more(folder: Path, tmp_path: Path) -> None:
    config(folder, "--out", tmp_path / "broker", "--at", "/etc/mosquitto/mill", "--syntax", "2.0")
    assert {path.name for path in (tmp_path / "broker").iterdir()} == COPIES
    assert not (folder / "mosquitto.conf").exists()
    for name in COPIES - {"data", "mosquitto.conf"}:
        assert (tmp_path / "broker" / name).read_bytes() == (folder / name).read_bytes()
    paths = [word for line in settings(tmp_path / "broker") for word in line.split()[1:] if word.startswith("/")]
    named = [path for path in paths if str(tmp_path) in path]
    assert named == []
    assert "/etc/mosquitto/mill/data/mosquitto.pid" in paths


def test_only_the_owner_reads_what_is_written(folder: Path, tmp_path: Path) -> None:
    config(folder, "--out", tmp_path / "broker", "--syntax", "2.0")
    config(folder, "--syntax", "2.0")
    for path in [*(tmp_path / "broker").iterdir(), folder / "acl", folder / "mosquitto.conf", folder / "data"]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_belong_to_the_owner_of_their_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    os.chown(tmp_path / "broker", 12345, 54321)
    for _ in range(2):
        config(folder, "--out", tmp_path / "broker", "--syntax", "2.0")
        for path in (tmp_path / "broker").iterdir():
            assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321), path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "70000"), "--port must be 1 to 65535"),
        (("--websockets", "70000"), "--websockets must be a port"),
        (("--websockets", "443", "--port", "443"), "two ports"),
        (("--syntax", "1.6"), "--syntax must be 2.0 or 2.1"),
        (("--at", "relative"), "--at must be an absolute path"),
        (("--out", "/proc/nowhere"), "/proc/nowhere cannot be made"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    more = () if "--syntax" in arguments else ("--syntax", "2.0")
    said = config(folder, *arguments, *more)
    assert said.startswith("refused: ") and words in said
    assert not (folder / "mosquitto.conf").exists()


@pytest.mark.parametrize("name", ["fleet.toml", "crl.pem", "broker.key", "ca.pem"])
def test_a_folder_that_lacks_something_is_refused_before_anything_is_written(folder: Path, name: str) -> None:
    (folder / name).unlink()
    said = config(folder, "--syntax", "2.0")
    assert said.startswith("refused: ") and name in said and "fedfleet pki init" in said
    assert not (folder / "acl").exists()


def damaged(folder: Path, name: str) -> None:
    (folder / name).write_text("-----BEGIN RUBBISH-----\n")


@pytest.mark.parametrize("name", ["crl.pem", "broker.pem", "broker.key", "ca.pem"])
def test_the_check_finds_what_mosquitto_cannot_use(folder: Path, kind: str, name: str) -> None:
    config(folder)
    ours(folder)
    damaged(folder, name)
    said = command("broker", "check", str(folder))
    assert said.startswith(f"refused: mosquitto does not take {folder / 'mosquitto.conf'}: "), said
    assert name.split(".", maxsplit=1)[0] in said or "key" in said or "ertificate" in said or "CRL" in said, said


def test_the_check_finds_a_setting_that_mosquitto_does_not_know(folder: Path, kind: str) -> None:
    config(folder)
    ours(folder)
    with (folder / "mosquitto.conf").open("a") as file:
        file.write("max_wisdom 3\n")
    assert "max_wisdom" in command("broker", "check", str(folder))


def test_the_check_leaves_a_broker_that_runs_and_its_database_alone(folder: Path, kind: str) -> None:
    config(folder)
    mosquitto = Mosquitto(folder)
    mosquitto.start()
    try:
        pid = (folder / "data/mosquitto.pid").read_text()
        (folder / "data/mosquitto.db").write_bytes(b"what the broker retains")
        assert "takes" in command("broker", "check", str(folder))
        assert (folder / "data/mosquitto.pid").read_text() == pid
        assert (folder / "data/mosquitto.db").read_bytes() == b"what the broker retains"
        assert {path.name for path in folder.iterdir()} >= {"log"}
        assert [path.name for path in folder.iterdir() if path.name.startswith("tmp")] == []
    finally:
        mosquitto.kill()


def test_without_mosquitto_the_syntax_is_2_0_and_a_check_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(server, "SBIN", "/nowhere")
    config(folder)
    assert any(line.startswith("acl_file ") for line in settings(folder))
    assert command("broker", "check", str(folder)) == "refused: mosquitto is not installed: apt install mosquitto"
    assert "take --syntax 2.0" in config(folder, "--syntax", "2.1")


def test_a_folder_without_settings_is_no_broker_s(folder: Path, kind: str) -> None:
    assert "fedfleet broker config writes one" in command("broker", "check", str(folder))


def test_every_syntax_is_one_that_is_offered() -> None:
    assert server.syntax() in SYNTAXES
