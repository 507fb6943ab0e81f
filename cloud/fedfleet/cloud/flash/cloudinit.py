"""Raspberry Pi OS Trixie: cloud-init's NoCloud files. `firstrun.sh` would be ignored without a word.

The instance's id is drawn from the content: the same settings are the same instance, which cloud-init sets up once,
and other settings are a new one. It stands on the kernel's command line as well, without which cloud-init looks for its
files anew at every start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from fedfleet.cloud.flash.firstrun import MARK, bare
from fedfleet.cloud.flash.owner import Owner

STOCK = {"ssh_pwauth", "disable_piwiz"}  # keys that images come with
RADIO = "cfg80211.ieee80211_regdom="
INSTALL = "sh /boot/firmware/fedfleet/install.sh >/boot/firmware/fedfleet/install.log 2>&1"


def user_data(owner: Owner) -> bytes:
    """Return `user-data`: the owner's wishes, then the installation from the boot partition."""
    found: dict[str, Any] = {"manage_resolv_conf": False}
    if owner.hostname:
        found |= {"hostname": owner.hostname, "manage_etc_hosts": True}
    if owner.timezone:
        found["timezone"] = owner.timezone
    if owner.user:
        found["user"] = _user(owner)
    if owner.keys:
        found["ssh_pwauth"] = False
    enable = [["systemctl", "enable", "--now", "ssh"]] if owner.keys else []
    return b"#cloud-config\n" + _yaml(found | {"runcmd": [*enable, ["sh", "-c", INSTALL]]})


def network_config(owner: Owner) -> bytes:
    """Return `network-config` in netplan's version 2; the wire is named as well, which would else be switched off."""
    network: dict[str, Any] = {"version": 2, "ethernets": {"eth0": {"dhcp4": True, "optional": True}}}
    if owner.wifi:
        access = {"password": owner.wifi.psk} if owner.wifi.psk else {"auth": {"key-management": "none"}}
        network["wifis"] = {
            "wlan0": {
                "dhcp4": True,
                "optional": True,
                "regulatory-domain": owner.country,
                "access-points": {owner.wifi.ssid: access},
            }
        }
    return _yaml({"network": network})


def foreign(name: str, data: bytes) -> bool:
    """Return whether a file of cloud-init's holds more than the image's own, and this program did not write it."""
    try:
        found = yaml.safe_load(data)
    except yaml.YAMLError:
        return True
    if MARK.encode() in data or not isinstance(found, dict):
        return False
    if name == "network-config":
        return "wifis" in (found.get("network") or found)
    return bool(found.keys() - STOCK)


def instance(content: Mapping[str, bytes]) -> str:
    """Return an id that is the same for the same files, whichever order they come in."""
    digest = hashlib.sha256()
    for name, data in sorted(content.items()):
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(data).digest())
    return f"fedfleet-{digest.hexdigest()[:16]}"


def meta_data(name: str) -> bytes:
    """Return `meta-data` with the instance's id."""
    return f"instance-id: {name}\n".encode()


def cmdline(before: bytes, name: str, owner: Owner) -> bytes:
    """Return the kernel's command line with the instance's id; the same where it is there already."""
    words = [*bare(before).split(), f"ds=nocloud;i={name}"]
    if owner.country and not owner.wifi:
        words = [word for word in words if not word.startswith(RADIO)] + [RADIO + owner.country]
    return (" ".join(words) + "\n").encode()


def _user(owner: Owner) -> dict[str, Any]:
    """The board's user, in place of the image's: with a password sudo asks for it, with keys alone it cannot."""
    found: dict[str, Any] = {"name": owner.user, "lock_passwd": not owner.password_hash}
    if owner.password_hash:
        found |= {"passwd": owner.password_hash, "sudo": None}
    if owner.keys:
        found["ssh_authorized_keys"] = list(owner.keys)
    return found


def _yaml(value: object) -> bytes:
    return f"{MARK}.\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=2**20)}".encode()
