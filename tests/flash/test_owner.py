"""What an owner may ask for: keys and hashes against other implementations, and every wish that cannot be met."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedfleet.cloud.flash import owner
from fedfleet.cloud.flash.owner import Owner, Wifi
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import Mismatch

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB2Wq0yTn5o8vGcE1sXkH3uJm4pQrS7tUvWxYz0123ab ada"


@pytest.mark.parametrize(
    ("ssid", "password", "key"),
    [  # IEEE 802.11-2020, J.4.2, test vectors
        ("IEEE", "password", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"),
        ("ThisIsASSID", "ThisIsAPassword", "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"),
        ("Z" * 32, "a" * 32, "becb93866bb8c3832cb777c2f559807c8c59afcb6eae734885001300a981cc62"),
    ],
)
def test_the_standard_s_own_keys(ssid: str, password: str, key: str) -> None:
    assert owner.psk(ssid, password) == key


def test_a_key_that_is_derived_already_stays() -> None:
    assert owner.psk("x", "AB" * 32) == "ab" * 32


@pytest.mark.parametrize("password", ["", "1234567", "x" * 64, "é" * 32, "tab\tinside", "line\nbreak"])
def test_passwords_that_no_network_has(password: str) -> None:
    with pytest.raises(Mismatch, match="Wi-Fi password"):
        owner.psk("x", password)


def test_a_login_is_hashed_as_openssl_does_and_the_same_each_time() -> None:
    made = owner.crypt("it's `$x` \\ é", "pump-1", "ada")
    salt = made.split("$")[2]
    again = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "it's `$x` \\ é"], capture_output=True, text=True, check=True
    )
    assert made == again.stdout.strip()
    assert made == owner.crypt("it's `$x` \\ é", "pump-1", "ada")
    salts = {owner.crypt("x", device, user).split("$")[2] for device in ("a", "b") for user in ("c", "d")}
    assert len(salts) == 4
    assert owner.crypt("x", "a", "c").split("$")[2] == owner.crypt("y", "a", "c").split("$")[2]


@pytest.mark.parametrize("password", ["line\nbreak", "\x00"])
def test_passwords_that_nobody_can_type(password: str) -> None:
    with pytest.raises(SettingsError, match="control characters"):
        owner.gather("d", user="ada", password=password)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"user": "Ada", "password_hash": "$6$x$abcdefgh"}, "--user must be"),
        ({"user": "root", "password_hash": "$6$x$abcdefgh"}, "--user must not be root"),
        ({"user": "ada"}, "--user needs a password, an SSH key, or both"),
        ({"password_hash": "$6$x$abcdefgh"}, "needs --user"),
        ({"user": "ada", "password": "x", "password_hash": "$6$x$abcdefgh"}, "not both"),
        ({"user": "ada", "password_hash": "secret"}, "--password-hash must be"),
        ({"user": "ada", "password_hash": "$6$x$abc'; rm -rf /"}, "--password-hash must be"),
        ({"hostname": "a_b"}, "--hostname"),
        ({"hostname": "-a"}, "--hostname"),
        ({"hostname": "a" * 64}, "--hostname"),
        ({"hostname": "a\n"}, "--hostname"),
        ({"timezone": "Europe/Berlin; reboot"}, "--timezone"),
        ({"timezone": "../../etc/passwd"}, "--timezone"),
        ({"country": "de"}, "--country"),
        ({"country": "DEU"}, "--country"),
        ({"wifi": "x"}, "--wifi needs --country"),
        ({"wifi_password": "password"}, "--wifi-password-env needs --wifi"),
        ({"wifi": "x" * 33, "country": "DE"}, "1 to 32 bytes"),
        ({"wifi": "é" * 17, "country": "DE"}, "1 to 32 bytes"),
        ({"wifi": "a\nb", "country": "DE"}, "control characters"),
        ({"wifi": "x", "wifi_password": "short", "country": "DE"}, "8 to 63"),
        ({"user": "ada", "keys": Path("none.pub")}, "none.pub: cannot be read"),
    ],
)
def test_wishes_that_cannot_be_met(wishes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        owner.gather("d", **wishes)
    assert "\n" not in str(caught.value)


def test_public_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# mine\n\n{KEY}\r\n  {KEY}2  \n")
    assert owner.gather("d", user="ada", keys=file).keys == (KEY, f"{KEY}2")
    for text, words in (
        ("", "no key in it"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "public keys"),
        (f"{KEY}\x1b[0m\n", "public keys"),
    ):
        file.write_text(text)
        with pytest.raises(SettingsError, match=words):
            owner.gather("d", user="ada", keys=file)


def test_all_wishes_together(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    found = owner.gather(
        "d",
        user="ada",
        password_hash="$6$salt$abcdefgh",
        keys=tmp_path / "keys",
        hostname="pump-1",
        timezone="America/Argentina/Buenos_Aires",
        country="DE",
        wifi="IEEE",
        wifi_password="password",
    )
    key = "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    zone = "America/Argentina/Buenos_Aires"
    assert found == Owner("ada", "$6$salt$abcdefgh", (KEY,), "pump-1", zone, "DE", Wifi("IEEE", key))


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    assert (owner.secret("--password-env", "SECRET"), owner.secret("--password-env", "")) == ("s3cret", "")
    for name in ("UNSET", "EMPTY"):
        monkeypatch.setenv("EMPTY", "")
        with pytest.raises(SettingsError, match=f"--password-env names {name}, which is not set"):
            owner.secret("--password-env", name)
