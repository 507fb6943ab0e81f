"""cloud-init's files: what a YAML parser reads in them is what was asked for, and cloud-init's own schema agrees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fedfleet-tests" / "cloud-init"
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


def schema() -> Any:
    """cloud-init's own schema, from Debian's package; skips where it is not to be had."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    if not (CACHE / SCHEMA).is_file():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            pytest.skip("no apt-get here to fetch cloud-init's schema with")
        CACHE.mkdir(parents=True, exist_ok=True)
        got = subprocess.run(
            ["apt-get", "download", "cloud-init"], cwd=CACHE, capture_output=True, timeout=60, check=False
        )
        found = sorted(CACHE.glob("cloud-init_*.deb"))
        if got.returncode or not found:
            pytest.skip("Debian's package cloud-init cannot be fetched here")
        subprocess.run(["dpkg-deb", "-x", found[-1], CACHE], check=True)
    told = json.loads((CACHE / SCHEMA).read_text())
    return jsonschema.Draft4Validator(told)


@pytest.mark.parametrize("name", OWNERS)
def test_cloud_init_s_schema_agrees(name: str) -> None:
    errors = [f"{list(error.path)}: {error.message[:200]}" for error in schema().iter_errors(data(OWNERS[name]))]
    assert errors == []


def test_the_schema_would_object() -> None:
    assert list(schema().iter_errors({"ssh_pwauth": 3, "timezone": ["x"]}))
