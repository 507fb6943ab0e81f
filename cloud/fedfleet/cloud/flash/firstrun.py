"""Raspberry Pi OS Bookworm: a script that systemd runs once, named on the kernel's command line.

The initramfs rewrites `/boot/` to `/boot/firmware/` only where it reads `systemd.run=/boot/firstrun.sh` to the letter.
It then cuts the script off at the first line that matches `rm.*firstrun\\.sh$` and appends its own clean-up: that line
must be the last real one. Before that, the image's own `firstboot` switches NetworkManager off where the script speaks
of wpa_supplicant's file, so it must not.
"""

from __future__ import annotations

import re
from shlex import quote

from fedfleet.cloud.flash.owner import Owner, Wifi

HOOK = " systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target"
ADDED = re.compile(r"systemd\.(run|run_success_action|unit)=|ds=nocloud")
MARK = "# Written by `fedfleet flash`"
HEAD = f"""#!/bin/sh
{MARK}: runs once, as root, and is removed. What the image brings is used where it is there.
set +e
custom=/usr/lib/raspberrypi-sys-mods/imager_custom
userconf=/usr/lib/userconf-pi/userconf
first=$(getent passwd 1000 | cut -d: -f1)
home=$(getent passwd 1000 | cut -d: -f6)
boot=/boot/firmware
[ -d "$boot/fedfleet" ] || boot=/boot
"""
TAIL = """
sh "$boot/fedfleet/install.sh" >"$boot/fedfleet/install.log" 2>&1 || {
    # such as a 32-bit board that wants Debian's numpy: there is no network yet, so it is tried again when there is
    cat >/etc/systemd/system/fedfleet-install.service <<END
[Unit]
Description=Finish the installation of the fedfleet agent
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sh $boot/fedfleet/install.sh >$boot/fedfleet/install.log 2>&1'
ExecStartPost=/bin/systemctl disable fedfleet-install.service
Restart=on-failure
RestartSec=60

[Install]
WantedBy=multi-user.target
END
    systemctl enable fedfleet-install.service
}

rm -f /boot/firstrun.sh
sed -i 's| systemd\\.[^ ]*||g' /boot/cmdline.txt
exit 0
"""
EITHER = """
if [ -f "${0}" ]; then
    {1}
else
{2}
fi
"""
KEYFILE = """[connection]
id=preconfigured
type=wifi
[wifi]
mode=infrastructure
ssid={ssid}
[ipv4]
method=auto
[ipv6]
method=auto
"""
SECURITY = """[wifi-security]
key-mgmt=wpa-psk
psk={psk}
"""


def script(owner: Owner) -> bytes:
    """Return `firstrun.sh`: the owner's wishes, then the installation from the boot partition."""
    parts = [HEAD]
    if owner.hostname:
        parts.append(_hostname(owner.hostname))
    if owner.keys:
        parts.append(_ssh(owner.keys))
    if owner.user:
        parts.append(_user(owner.user, owner.password_hash))
    if owner.wifi:
        parts.append(_wifi(owner.wifi, owner.country))
    elif owner.country:
        parts.append(f'\n[ ! -f "$custom" ] || "$custom" set_wlan_country {quote(owner.country)}\n')
    if owner.timezone:
        parts.append(_timezone(owner.timezone))
    return "".join([*parts, TAIL]).encode()


def bare(cmdline: bytes) -> str:
    """Return the kernel's command line, one line, without what this program appends."""
    words = cmdline.decode("utf-8", "replace").split()
    return " ".join(word for word in words if not ADDED.match(word))


def cmdline(before: bytes) -> bytes:
    """Return the kernel's command line with the hook; the same where it is there already."""
    return (bare(before) + HOOK + "\n").encode()


def keyfile_ssid(ssid: str) -> str:
    """Return a network's name as a NetworkManager keyfile takes it: as it is, or as bytes, `65;66;`.

    A keyfile takes a backslash for an escape, `;` for a list, and drops blanks at the ends; `imager_custom` writes the
    name there as it gets it, and takes a leading `-` for an option.
    """
    plain = ssid == ssid.strip() and not ssid.startswith("-") and not set(ssid) & {"\\", ";"}
    return ssid if plain else "".join(f"{byte};" for byte in ssid.encode())


def _either(program: str, then: str, *otherwise: str) -> str:
    """Lines that call the image's own program where it is there, else do it by hand."""
    return EITHER.format(program, then, "\n".join(f"    {line}" for line in otherwise))


def _hostname(name: str) -> str:
    lines = (f"echo {name} >/etc/hostname", f"sed -i 's/^127\\.0\\.1\\.1.*/127.0.1.1 {name}/' /etc/hosts")
    return _either("custom", f'"$custom" set_hostname {name}', *lines)


def _ssh(keys: tuple[str, ...]) -> str:
    quoted = " ".join(map(quote, keys))
    return _either(
        "custom",
        f'"$custom" enable_ssh -k {quoted}',
        'install -o "$first" -g "$first" -m 700 -d "$home/.ssh"',
        f"printf '%s\\n' {quoted} >\"$home/.ssh/authorized_keys\"",
        'chmod 600 "$home/.ssh/authorized_keys"',
        'chown "$first:$first" "$home/.ssh/authorized_keys"',
        "echo 'PasswordAuthentication no' >>/etc/ssh/sshd_config",
        "systemctl enable ssh",
    )


def _user(user: str, hashed: str) -> str:
    password = [f"echo {quote(f'{user}:{hashed}')} | chpasswd -e"] if hashed else []
    return _either(
        "userconf",
        f'"$userconf" {quote(user)} {quote(hashed)}',
        f'if [ "$first" != {user} ]; then',
        f'    usermod -l {user} "$first"',
        f"    usermod -m -d /home/{user} {user}",
        f'    groupmod -n {user} "$first"',
        "fi",
        *password,
    )


def _wifi(wifi: Wifi, country: str) -> str:
    name = keyfile_ssid(wifi.ssid)
    text = KEYFILE.format(ssid=name) + (SECURITY.format(psk=wifi.psk) if wifi.psk else "")
    return _either(
        "custom",
        f'"$custom" set_wlan {quote(name)} {quote(wifi.psk)} {quote(country)}',
        "connection=/etc/NetworkManager/system-connections/preconfigured.nmconnection",
        f"printf '%s' {quote(text)} >\"$connection\"",
        'chmod 600 "$connection"',
        f"raspi-config nonint do_wifi_country {quote(country)}",
    )


def _timezone(zone: str) -> str:
    lines = (f"ln -sf {quote(f'/usr/share/zoneinfo/{zone}')} /etc/localtime", f"echo {quote(zone)} >/etc/timezone")
    return _either("custom", f'"$custom" set_timezone {quote(zone)}', *lines)
