"""What the owner of a board wants on it besides the agent: network, user, keys, names. Checked before it is used."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import Mismatch, require

USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")
COUNTRY = re.compile(r"[A-Z]{2}")
HASH = re.compile(r"\$[0-9a-z]+\$[A-Za-z0-9./$=,*-]{8,}")
KEY = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-\S+ [A-Za-z0-9+/=]{32,}( [^\x00-\x1f\x7f]*)?")
HEX = re.compile(r"[0-9a-fA-F]{64}")
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Wifi:
    """A wireless network; `psk` is 64 hex digits, or "" for a network that is open."""

    ssid: str
    psk: str = ""

    def __post_init__(self) -> None:
        require(CONTROL.search(self.ssid) is None, "the name of a Wi-Fi network must not hold control characters")
        require(1 <= len(self.ssid.encode()) <= 32, "the name of a Wi-Fi network has 1 to 32 bytes")
        require(not self.psk or HEX.fullmatch(self.psk) is not None, "a derived Wi-Fi key has 64 hex digits")


@dataclass(frozen=True)
class Owner:
    """What is to be on the board; what is empty stays as the image has it. `keys` are lines of an SSH public key file.

    With keys, SSH is switched on and takes no passwords. `country` is what permits the radio to be used.
    """

    user: str = ""
    password_hash: str = ""
    keys: tuple[str, ...] = ()
    hostname: str = ""
    timezone: str = ""
    country: str = ""
    wifi: Wifi | None = None

    def __post_init__(self) -> None:
        for text, pattern, words in (
            (self.user, USER, "--user must be a-z, 0-9, _ and -, beginning with a letter"),
            (
                self.password_hash,
                HASH,
                "--password-hash must be one that crypt knows, such as openssl passwd -6 prints",
            ),
            (self.hostname, HOST, "--hostname must be 1 to 63 letters, digits and -"),
            (self.timezone, ZONE, "--timezone must be one such as Europe/Berlin"),
            (self.country, COUNTRY, "--country must be two capital letters, such as DE"),
        ):
            require(not text or pattern.fullmatch(text) is not None, words)
        require(all(KEY.fullmatch(key) for key in self.keys), "--ssh-key must hold public keys, such as id_ed25519.pub")
        require(self.user != "root", "--user must not be root")
        require(bool(self.user) or not (self.password_hash or self.keys), "a password or an SSH key needs --user")
        require(bool(self.password_hash or self.keys) or not self.user, "--user needs a password, an SSH key, or both")
        require(self.wifi is None or bool(self.country), "--wifi needs --country, without which the radio stays off")


def psk(ssid: str, password: str) -> str:
    """Return the 256-bit key of a WPA network in hex: PBKDF2 with SHA-1, 4096 rounds, the name as salt.

    IEEE 802.11-2020, J.4.1. 64 hex digits are such a key already. Raises Mismatch.
    """
    if HEX.fullmatch(password):
        return password.lower()
    secret = password.encode("utf-8", "surrogatepass")
    require(8 <= len(secret) <= 63, "a Wi-Fi password has 8 to 63 characters, or is a key of 64 hex digits")
    require(CONTROL.search(password) is None, "a Wi-Fi password must not hold control characters")
    return hashlib.pbkdf2_hmac("sha1", secret, ssid.encode(), 4096, 32).hex()


def crypt(password: str, device: str, user: str) -> str:
    """Return the SHA-512 hash of a login password, by openssl. The same for the same device, user and password.

    The salt is drawn from the names alone: it differs between devices, and a second run writes the same bytes.
    """
    require(
        bool(password) and CONTROL.search(password) is None, "the user's password is empty or holds control characters"
    )
    salt = hashlib.sha256(f"fedfleet {device} {user}".encode()).hexdigest()[:16]
    command = ["openssl", "passwd", "-6", "-salt", salt, "-stdin"]
    try:
        done = subprocess.run(command, input=password.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise Mismatch("openssl cannot hash the password; install it, or give --password-hash") from None
    return done.stdout.decode().strip()


def public_keys(path: Path) -> tuple[str, ...]:
    """Return the keys in an SSH public key file, comments and empty lines left out. Raises Mismatch."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise Mismatch(f"--ssh-key {path}: cannot be read; name a public key, such as id_ed25519.pub") from None
    found = tuple(line for line in lines if line and not line.startswith("#"))
    require(bool(found), f"--ssh-key {path}: no key in it")
    return found


def gather(
    device: str,
    *,
    user: str = "",
    password: str = "",
    password_hash: str = "",
    keys: Path | None = None,
    hostname: str = "",
    timezone: str = "",
    country: str = "",
    wifi: str = "",
    wifi_password: str = "",
) -> Owner:
    """Return what the options of `fedfleet flash` ask for; raises SettingsError that names the option."""
    try:
        require(not (password and password_hash), "give --password-env or --password-hash, not both")
        require(bool(wifi) or not wifi_password, "--wifi-password-env needs --wifi")
        return Owner(
            user=user,
            password_hash=crypt(password, device, user) if password else password_hash,
            keys=public_keys(keys) if keys else (),
            hostname=hostname,
            timezone=timezone,
            country=country,
            wifi=Wifi(wifi, psk(wifi, wifi_password) if wifi_password else "") if wifi else None,
        )
    except Mismatch as error:
        raise SettingsError(str(error)) from None


def secret(option: str, variable: str) -> str:
    """Return what the environment variable holds, "" where none is named; raises SettingsError where it is not set."""
    if variable and not os.environ.get(variable):
        raise SettingsError(f"{option} names {variable}, which is not set in the environment; export it first")
    return os.environ[variable] if variable else ""
