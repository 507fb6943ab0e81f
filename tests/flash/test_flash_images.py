"""`fedfleet flash` onto images of both releases, both widths: what lies on the boot partition afterwards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cards
import commands
import pytest
import yaml
from cards import Images

pytestmark = cards.needs_tools
COMMON = ("--bundle", "bundle", "--settings", "pump-1.toml", "--claim", "claim.pem")
HOOK = " systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target"


def flash(*options: object) -> str:
    return commands.run("flash", *COMMON, *map(str, options))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_bookworm_gets_a_script_and_a_hook_on_the_single_line(here: Path, images: Images) -> None:
    shown = flash("--image", images(), "--out", "card.img", "--hostname", "pump-1", "--json", "facts.json")
    assert (
        cards.read(here / "card.img", "cmdline.txt").decode() == cards.CMDLINES["bookworm"].rstrip("\n") + HOOK + "\n"
    )
    assert b"set_hostname pump-1\n" in cards.read(here / "card.img", "firstrun.sh")
    assert not {"user-data", "meta-data", "network-config"} & cards.names(here / "card.img")
    assert "Raspberry Pi OS Bookworm, 64 bit, Python 3.11" in shown
    facts = json.loads((here / "facts.json").read_text())
    assert (facts["changed"], facts["system"]["style"], facts["device"]) == (True, "firstrun", "pump-1")


def test_trixie_gets_cloud_init_and_no_script(here: Path, images: Images) -> None:
    cards.bundle(here / "bundle", "trixie")
    shown = flash("--image", images("trixie"), "--out", "card.img", "--hostname", "pump-1")
    line = cards.read(here / "card.img", "cmdline.txt").decode()
    ident = yaml.safe_load(cards.read(here / "card.img", "meta-data"))["instance-id"]
    assert line == cards.CMDLINES["trixie"].rstrip("\n") + f" ds=nocloud;i={ident}\n"
    assert "firstrun.sh" not in cards.names(here / "card.img")
    data = cards.read(here / "card.img", "user-data")
    assert data.startswith(b"#cloud-config\n")
    assert yaml.safe_load(data)["hostname"] == "pump-1"
    assert "Raspberry Pi OS Trixie, 64 bit, Python 3.13" in shown


@pytest.mark.parametrize(("release", "bits"), [("bookworm", 64), ("bookworm", 32), ("trixie", 64)])
def test_the_bundle_the_settings_and_the_claim_are_there_to_the_byte(
    here: Path, images: Images, release: str, bits: int
) -> None:
    cards.bundle(here / "bundle", release, bits)
    flash("--image", images(release, bits), "--out", "card.img")
    for file in (here / "bundle").rglob("*"):
        if file.is_file():
            assert cards.read(here / "card.img", f"fedfleet/{file.relative_to(here / 'bundle')}") == file.read_bytes()
    assert cards.read(here / "card.img", "fedfleet/agent.toml") == (here / "pump-1.toml").read_bytes()
    assert cards.read(here / "card.img", "fedfleet/claim.pem") == (here / "claim.pem").read_bytes()
    for name, stock in cards.boot_files(release, bits).items():
        if name not in ("cmdline.txt", "user-data", "network-config", "meta-data"):
            assert cards.read(here / "card.img", name) == stock
    assert not any("INCOMPLETE" in name for name in cards.names(here / "card.img"))


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_the_same_again_is_the_same_to_the_byte(here: Path, images: Images, release: str, tmp_path: Path) -> None:
    cards.bundle(here / "bundle", release)
    options = ("--image", images(release), "--out", "card.img", "--user", "ada", "--password-env", "PATH")
    flash(*options)
    first, when = digest(here / "card.img"), (here / "card.img").stat().st_mtime_ns
    assert "nothing: it was all there, byte for byte" in flash(*options)
    assert (digest(here / "card.img"), (here / "card.img").stat().st_mtime_ns) == (first, when)
    assert "nothing: it was all there" in flash("--boot", "card.img", "--user", "ada", "--password-env", "PATH")
    assert digest(here / "card.img") == first


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_other_settings_take_the_place_of_the_old(here: Path, images: Images, release: str) -> None:
    cards.bundle(here / "bundle", release)
    flash("--image", images(release), "--out", "card.img", "--hostname", "one")
    before = cards.read(here / "card.img", "cmdline.txt")
    flash("--boot", "card.img", "--hostname", "two")
    after = cards.read(here / "card.img", "cmdline.txt")
    assert after.count(b"\n") == 1
    assert len(after) == len(before)
    assert (after != before) == (release == "trixie")  # another instance, or cloud-init would not look


def test_an_older_bundle_leaves_nothing_behind(here: Path, images: Images) -> None:
    flash("--image", images(), "--out", "card.img")
    (here / "bundle/wheels/thing-1.0-two-none-any.whl").unlink()
    told = json.loads((here / "bundle/release.json").read_text())
    (here / "bundle/release.json").write_text(json.dumps({**told, "wheels": told["wheels"][:1]}))
    shown = flash("--boot", "card.img")
    assert "1 removed" in shown
    assert "fedfleet/wheels/thing-1.0-two-none-any.whl" not in cards.names(here / "card.img")


def test_the_first_images_of_trixie_were_set_up_as_bookworm_was(here: Path) -> None:
    """What reads the settings is told by the boot partition, which system it is by the other one."""
    disk = cards.assemble(here / "made", cards.boot_files("bookworm", 64), cards.root_files("trixie", 64))
    assert "make a bundle for it" in flash("--image", disk, "--out", "card.img")
    cards.bundle(here / "bundle", "trixie")
    shown = flash("--image", disk, "--out", "card.img")
    assert "Raspberry Pi OS Trixie, 64 bit, Python 3.13" in shown
    assert "firstrun.sh" in cards.names(here / "card.img")


def test_the_bits_are_those_of_the_programs_and_not_of_the_kernels(here: Path) -> None:
    disk = cards.assemble(here / "made", cards.boot_files("bookworm", 64), cards.root_files("bookworm", 32))
    assert "(armv7l, Python 3.11; /usr/bin/dpkg is a program of 32 bits)" in flash("--image", disk, "--out", "card.img")


def test_users_who_are_not_root_have_no_sbin_in_their_path(
    here: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/usr/sbin/debugfs").exists():
        pytest.skip("debugfs is not in /usr/sbin")
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")
    assert "/usr/bin/dpkg is a program of 64 bits" in flash("--image", images(), "--out", "card.img")


def test_files_are_stamped_with_one_time(here: Path, images: Images) -> None:
    """Whenever the card is made, its bytes are the same."""
    flash("--image", images(), "--out", "card.img")
    listed = cards.run("mdir", "-i", "card.img@@1M", "::/fedfleet").decode().splitlines()
    assert {line.split()[-3] for line in listed if "agent.toml" in line or "RELEAS" in line} == {"2026-01-01"}


def test_only_the_owner_may_read_the_image(here: Path, images: Images) -> None:
    """A claim, a password's hash and a network's key are in it."""
    flash("--image", images(), "--out", "card.img")
    assert (here / "card.img").stat().st_mode & 0o077 == 0


def test_a_real_claim_of_a_real_fleet(here: Path) -> None:
    commands.run("pki", "init", "pki", "--fleet", "pumps", "--broker", "broker.example")
    commands.run("enrol", "claim", "pki", "--group", "line-3", "--device", "pump-1", "--out", "claim.pem")
    cards.lay(here / "bootfs", cards.boot_files("bookworm", 64))
    assert "pump-1 of the fleet pumps" in flash("--boot", "bootfs")
    assert (here / "bootfs/fedfleet/claim.pem").read_bytes() == (here / "claim.pem").read_bytes()


def test_xz_is_known_by_its_bytes_and_unpacked(here: Path, images: Images) -> None:
    flash("--image", images(), "--out", "plain.img")
    (here / "download").write_bytes(cards.run("xz", "-0", "-c", images()))
    flash("--image", "download", "--out", "card.img")
    assert digest(here / "card.img") == digest(here / "plain.img")
    assert (here / "card.img").stat().st_size == images().stat().st_size


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_a_folder_where_the_boot_partition_is_mounted(here: Path, images: Images, release: str) -> None:
    """The files are those that an image gets; of the system nothing is to be seen but its kernels."""
    cards.bundle(here / "bundle", release)
    flash("--image", images(release), "--out", "card.img")
    cards.lay(here / "bootfs", cards.boot_files(release, 64))
    assert "kernel8.img alone" in flash("--boot", "bootfs")
    found = {str(path.relative_to(here / "bootfs")) for path in (here / "bootfs").rglob("*") if path.is_file()}
    assert found == cards.names(here / "card.img")
    assert all((here / "bootfs" / name).read_bytes() == cards.read(here / "card.img", name) for name in found)
    assert "nothing: it was all there" in flash("--boot", "bootfs")


def test_the_log_of_an_installation_stays(here: Path) -> None:
    cards.lay(here / "bootfs", cards.boot_files("bookworm", 64) | {"fedfleet/install.log": b"installed\n"})
    flash("--boot", "bootfs")
    assert (here / "bootfs/fedfleet/install.log").read_bytes() == b"installed\n"
