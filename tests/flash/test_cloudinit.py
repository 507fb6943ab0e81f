"""cloud-init's files: what a YAML parser reads in them is what was asked for, and cloud-init's own schema agrees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedfleet.cloud.flash import cloudinit
from fedfleet.cloud.flash.owner import Owner, Wifi

NASTY = [
    "it's",
    'say "hi"',
    "#1 $HOME `id` \\n",
    "Café ☕",
    "a: b",
    "- x",
    "null",
    "yes",
    "1.5",
    " blanks ",
    "%s",
    "{a",
    "& *x",
]
KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB2Wq0yTn5o8vGcE1sXkH3uJm4pQrS7tUvWxYz0123ab ada\'s key: $(id) "x" #1'
HASH = "$6$salt$abcdefghijklmnopqrstuvwxyz./0123456789"
FULL = Owner("ada", HASH, (KEY,), "pump-1", "Europe/Berlin", "DE", Wifi("Café", "a" * 64))
OWNERS = {
    "nothing": Owner(),
    "everything": FULL,
    "keys": Owner("ada", keys=(KEY,)),
    "password": Owner("ada", HASH),
    "country": Owner(country="DE"),
}
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fedfleet-tests"
SCHEMA = "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"


def data(owner: Owner) -> Any:
    return yaml.safe_load(cloudinit.user_data(owner))


def network(owner: Owner) -> Any:
    return yaml.safe_load(cloudinit.network_config(owner))["network"]


@pytest.mark.parametrize("ssid", NASTY)
def test_a_network_is_the_one_that_was_named(ssid: str) -> None:
    found = network(Owner(country="DE", wifi=Wifi(ssid, "b" * 64)))
    assert found["version"] == 2
    assert found["wifis"]["wlan0"]["access-points"] == {ssid: {"password": "b" * 64}}
    assert found["wifis"]["wlan0"]["regulatory-domain"] == "DE"


@pytest.mark.parametrize("digits", ["1" * 64, "0" * 64, "1e" + "0" * 62])
def test_a_key_of_digits_stays_text(digits: str) -> None:
    found = network(Owner(country="NO", wifi=Wifi("x", digits)))
    assert found["wifis"]["wlan0"] == {
        "dhcp4": True,
        "optional": True,
        "regulatory-domain": "NO",  # which YAML 1.1 would take for false
        "access-points": {"x": {"password": digits}},
    }


def test_an_open_network_says_so() -> None:
    found = network(Owner(country="DE", wifi=Wifi("guests")))
    assert found["wifis"]["wlan0"]["access-points"] == {"guests": {"auth": {"key-management": "none"}}}


def test_the_wire_works_with_and_without_a_network() -> None:
    for owner in OWNERS.values():
        assert network(owner)["ethernets"] == {"eth0": {"dhcp4": True, "optional": True}}
    assert "wifis" not in network(Owner())


def test_a_user_replaces_the_image_s_and_keeps_its_groups() -> None:
    found = data(FULL)
    assert "users" not in found
    assert found["user"] == {
        "name": "ada",
        "lock_passwd": False,
        "passwd": HASH,
        "sudo": None,
        "ssh_authorized_keys": [KEY],
    }
    assert (found["hostname"], found["manage_etc_hosts"], found["timezone"]) == ("pump-1", True, "Europe/Berlin")


def test_ssh_is_for_keys_alone_and_only_where_there_are_some() -> None:
    enable = ["systemctl", "enable", "--now", "ssh"]
    for name, owner in OWNERS.items():
        found = data(owner)
        assert (enable in found["runcmd"], found.get("ssh_pwauth")) == (
            (True, False) if owner.keys else (False, None)
        ), name
    assert data(OWNERS["keys"])["user"] == {"name": "ada", "lock_passwd": True, "ssh_authorized_keys": [KEY]}


def test_the_agent_is_installed_last() -> None:
    for owner in OWNERS.values():
        assert data(owner)["runcmd"][-1][:2] == ["sh", "-c"]
        assert data(owner)["runcmd"][-1][2].startswith("sh /boot/firmware/fedfleet/install.sh")
        assert data(owner)["manage_resolv_conf"] is False


def test_the_instance_is_the_content() -> None:
    content = {"a": b"1", "b": b"2"}
    name = cloudinit.instance(content)
    assert cloudinit.instance(dict(reversed(content.items()))) == name
    assert len({name, cloudinit.instance({"a": b"12", "b": b""}), cloudinit.instance({"a": b"2", "b": b"1"})}) == 3
    assert yaml.safe_load(cloudinit.meta_data(name)) == {"instance-id": name}


def test_the_line_of_the_kernel() -> None:
    before = b"console=tty1 quiet resize cfg80211.ieee80211_regdom=GB ds=nocloud;i=rpi-imager-17\n"
    plain = cloudinit.cmdline(before, "x", Owner())
    assert plain == b"console=tty1 quiet resize cfg80211.ieee80211_regdom=GB ds=nocloud;i=x\n"
    radio = cloudinit.cmdline(plain, "y", Owner(country="DE"))
    assert radio == b"console=tty1 quiet resize ds=nocloud;i=y cfg80211.ieee80211_regdom=DE\n"
    assert cloudinit.cmdline(radio, "y", Owner(country="DE")) == radio


def debian(*packages: str) -> Path:
    """A folder with Debian's packages unpacked, fetched once; skips where they are not to be had."""
    folder = CACHE / "-".join(packages)
    if not folder.is_dir():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            pytest.skip(f"no apt-get here to fetch {' '.join(packages)} with")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            got = subprocess.run(
                ["apt-get", "download", *packages], cwd=name, capture_output=True, timeout=60, check=False
            )
            found = sorted(Path(name).glob("*.deb"))
            if got.returncode or len(found) != len(packages):
                pytest.skip(f"Debian's {' '.join(packages)} cannot be fetched here")
            for package in found:
                subprocess.run(["dpkg-deb", "-x", package, Path(name) / "all"], check=True)
            (Path(name) / "all").rename(folder)
    return folder


def schema() -> Any:
    """cloud-init's own schema."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    return jsonschema.Draft4Validator(json.loads((debian("cloud-init") / SCHEMA).read_text()))


def keyfile(text: str) -> str:
    """A value of a GLib key file as it is read."""
    return re.sub(r"\\(.)", lambda match: {"s": " ", "n": "\n", "t": "\t"}.get(match[1], match[1]), text)


@pytest.mark.parametrize("key", ["c" * 64, ""])
def test_netplan_hands_the_network_on_to_networkmanager(tmp_path: Path, key: str) -> None:
    folder = debian("netplan.io", "libnetplan0")
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, folder.glob("usr/lib/*-linux-gnu")))}
    for number, ssid in enumerate([*NASTY, "a;b;", "[wifi]", "/", "trailing\\", "x" * 32]):
        plans = tmp_path / str(number) / "etc/netplan"
        plans.mkdir(parents=True)
        (plans / "00.yaml").write_text("network:\n  version: 2\n  renderer: NetworkManager\n")
        (plans / "50.yaml").write_bytes(cloudinit.network_config(Owner(country="DE", wifi=Wifi(ssid, key))))
        command = [folder / "usr/libexec/netplan/generate", "--root-dir", tmp_path / str(number)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        (made,) = (path for path in (tmp_path / str(number)).rglob("*.nmconnection") if "wlan0" in path.name)
        lines = dict(line.split("=", 1) for line in made.read_text().splitlines() if "=" in line)
        assert keyfile(lines["ssid"]) == ssid
        assert lines.get("psk", "") == key


@pytest.mark.parametrize("name", OWNERS)
def test_cloud_init_s_schema_agrees(name: str) -> None:
    errors = [f"{list(error.path)}: {error.message[:200]}" for error in schema().iter_errors(data(OWNERS[name]))]
    assert errors == []


def test_the_schema_would_object() -> None:
    assert list(schema().iter_errors({"ssh_pwauth": 3, "timezone": ["x"]}))
