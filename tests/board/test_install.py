"""install.sh in a tree of its own: what it makes, what it refuses, and what is left when it is cut off."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest
import trees
from trees import CLAIM, SETTINGS, VAR, bundle, install, picture

root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):o}"


def test_the_scripts_are_clean() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    folder = Path(__file__).parents[2] / "edge" / "install"
    found = subprocess.run(
        ["shellcheck", folder / "install.sh", folder / "launch"], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


@root_alone
def test_all_is_where_it_belongs_and_nobody_else_can_read_it(tree: Path, made: Path) -> None:
    (made / "claim.pem").write_text(CLAIM)
    result = install(made, "--root", tree)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"fedfleet: 1.2 is installed in {tree}\n", "")
    (line,) = (line for line in (tree / "etc/passwd").read_text().splitlines() if line.startswith("fedfleet:"))
    user, group = map(int, line.split(":")[2:4])
    assert line.endswith("/usr/sbin/nologin") and user > 0
    wanted = {
        "usr/lib/fedfleet": ("755", 0, 0),
        "usr/lib/fedfleet/launch": ("755", 0, 0),
        "usr/lib/fedfleet/install.sh": ("755", 0, 0),
        "etc/fedfleet": ("750", 0, group),
        "etc/fedfleet/agent.toml": ("640", 0, group),
        VAR: ("700", user, group),
        f"{VAR}/claim.pem": ("600", user, group),
        f"{VAR}/slots": ("700", user, group),
        f"{VAR}/slots/1.2/site/fedfleet/edge/agent.py": ("644", user, group),
        "etc/systemd/system/fedfleet-agent.service": ("644", 0, 0),
    }
    found = {name: (mode(tree / name), (tree / name).stat().st_uid, (tree / name).stat().st_gid) for name in wanted}
    assert found == wanted
    slots = tree / VAR / "slots"
    assert (slots / "current").readlink() == Path("1.2")
    assert (slots / "1.2" / "release.json").read_bytes() == (made / "release.json").read_bytes()
    wants = tree / "etc/systemd/system/multi-user.target.wants/fedfleet-agent.service"
    assert wants.resolve() == tree / "etc/systemd/system/fedfleet-agent.service"
    assert (tree / VAR / "claim.pem").read_text() == CLAIM
    assert not (made / "claim.pem").exists()
    assert sorted(path.name for path in (tree / "var/lib").iterdir()) == ["fedfleet"]


def test_a_second_run_changes_nothing_and_says_so(tree: Path, made: Path) -> None:
    assert install(made, "--root", tree).returncode == 0
    before = picture(tree)
    assert install(made, "--root", tree).stdout == "fedfleet: 1.2 is installed; nothing changed\n"
    assert picture(tree) == before


def test_what_somebody_has_changed_is_put_right(tree: Path, made: Path) -> None:
    install(made, "--root", tree)
    (tree / "etc/fedfleet/agent.toml").chmod(0o644)
    (tree / "usr/lib/fedfleet/launch").write_text("#!/bin/sh\nrm -rf /\n")
    (tree / VAR / "slots/current").unlink()
    assert install(made, "--root", tree).stdout == f"fedfleet: 1.2 is installed in {tree}\n"
    assert mode(tree / "etc/fedfleet/agent.toml") == "640"
    assert (tree / "usr/lib/fedfleet/launch").read_bytes() == (made / "launch").read_bytes()
    assert (tree / VAR / "slots/current").readlink() == Path("1.2")


def test_a_newer_version_takes_over_and_the_one_before_is_kept(tmp_path: Path, tree: Path, made: Path) -> None:
    install(made, "--root", tree)
    slots = tree / VAR / "slots"
    for version in ("1.3", "1.10"):
        (slots / "trial.json").write_text("{}")
        assert install(bundle(tmp_path / version, version), "--root", tree).returncode == 0
        assert not (slots / "trial.json").exists()
    assert ((slots / "current").readlink(), (slots / "previous").readlink()) == (Path("1.10"), Path("1.3"))
    assert sorted(path.name for path in slots.iterdir()) == ["1.10", "1.3", "current", "previous"]


def test_an_older_version_does_not_take_over(tmp_path: Path, tree: Path, made: Path) -> None:
    install(bundle(tmp_path / "new", "1.10"), "--root", tree)
    result = install(made, "--root", tree)
    assert "the board runs 1.10, which is newer than this bundle's 1.2: it stays" in result.stdout
    assert [path.name for path in sorted((tree / VAR / "slots").iterdir())] == ["1.10", "current"]


def test_nor_do_the_scripts_of_an_older_version(tmp_path: Path, tree: Path, made: Path) -> None:
    install(bundle(tmp_path / "new", "1.10"), "--root", tree)
    (made / "launch").write_text("#!/bin/sh\n# an older one\n")
    before = picture(tree)
    install(made, "--root", tree)
    assert picture(tree) == before


@root_alone
def test_a_state_folder_on_a_disk_of_its_own(tree: Path, made: Path) -> None:
    (tree / VAR).mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree / VAR], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert install(made, "--root", tree).returncode == 0
        assert (tree / VAR / "slots/current/site/fedfleet/edge/agent.py").is_file()
        assert [path.name for path in (tree / VAR).iterdir()] == ["slots"]
    finally:
        subprocess.run(["umount", tree / VAR], check=True)


def test_two_at_once_are_one_too_many(tree: Path, made: Path) -> None:
    (tree / "var/lib").mkdir(parents=True)
    held = os.open(tree / "var/lib", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    before = picture(tree)
    assert (
        install(made, "--root", tree).stderr == "fedfleet: another install.sh is at work on this board: wait for it\n"
    )
    assert picture(tree) == before
    os.close(held)
    assert install(made, "--root", tree).returncode == 0


def test_a_version_that_was_built_anew_takes_over(tmp_path: Path, tree: Path, made: Path) -> None:
    install(made, "--root", tree)
    release = json.loads((made / "release.json").read_text())
    (made / "release.json").write_text(json.dumps(release))  # other bytes, the same version
    assert install(made, "--root", tree).returncode == 0
    current = (tree / VAR / "slots/current").readlink().name
    assert current.startswith("1.2-") and len(current) == 12
    assert (tree / VAR / "slots/previous").readlink() == Path("1.2")


def test_new_settings_take_over_and_the_old_ones_are_kept(tree: Path, made: Path) -> None:
    install(made, "--root", tree)
    (made / "agent.toml").write_text(SETTINGS.replace("d1", "d2"))
    install(made, "--root", tree)
    etc = tree / "etc/fedfleet"
    assert (etc / "agent.toml").read_text() == SETTINGS.replace("d1", "d2")
    assert (etc / "agent.toml.old").read_text() == SETTINGS
    (made / "agent.toml").unlink()
    assert install(made, "--root", tree).stdout == "fedfleet: 1.2 is installed; nothing changed\n"


def test_settings_and_claim_from_elsewhere(tmp_path: Path, tree: Path, made: Path) -> None:
    (made / "agent.toml").rename(tmp_path / "mine.toml")
    (tmp_path / "mine.pem").write_text(CLAIM)
    result = install(made, "--root", tree, "--settings", tmp_path / "mine.toml", "--claim", tmp_path / "mine.pem")
    assert result.returncode == 0, result.stderr
    assert (tree / VAR / "claim.pem").read_text() == CLAIM
    assert not (tmp_path / "mine.pem").exists()


def test_whose_releases_it_takes_travels_along(tree: Path, made: Path) -> None:
    (made / "root.json").write_text("{}")
    assert install(made, "--root", tree).returncode == 0
    assert mode(tree / "etc/fedfleet/root.json") == "640"


def test_a_claim_is_overwritten_where_it_lay(tree: Path, made: Path) -> None:
    """Whoever holds the file still, as a file system without owners might, finds nothing in it."""
    (made / "claim.pem").write_text(CLAIM)
    with (made / "claim.pem").open("rb") as held:
        install(made, "--root", tree)
        assert held.read() == bytes(len(CLAIM))


@pytest.mark.parametrize("rest", [b"", bytes(40)])
def test_a_claim_that_a_power_cut_left_overwritten_is_no_claim(tree: Path, made: Path, rest: bytes) -> None:
    (made / "claim.pem").write_text(CLAIM)
    install(made, "--root", tree)
    (made / "claim.pem").write_bytes(rest)
    assert install(made, "--root", tree).stdout == "fedfleet: 1.2 is installed; nothing changed\n"
    assert not (made / "claim.pem").exists()
    assert (tree / VAR / "claim.pem").read_text() == CLAIM


@pytest.mark.parametrize("after", [0.05 * part for part in range(1, 9)])
def test_a_run_that_is_cut_off_is_finished_by_the_next(tmp_path: Path, tree: Path, made: Path, after: float) -> None:
    install(made, "--root", tree)
    (made / "claim.pem").write_text(CLAIM)
    new = bundle(tmp_path / "new", "1.3", SETTINGS.replace("d1", "d2"))
    with subprocess.Popen(
        ["dash", str(new / "install.sh"), "--root", str(tree)],
        env=trees.CLEAN,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    ) as process:
        time.sleep(after)  # no synchronisation: any moment will do
        os.killpg(process.pid, 9)
    slots = tree / VAR / "slots"
    current = (slots / "current").resolve()
    assert json.loads((current / "release.json").read_text())["version"] == current.name
    assert (current / "site/fedfleet/edge/agent.py").is_file()
    assert install(new, "--root", tree).returncode == 0
    assert (slots / "current").readlink() == Path("1.3")
    assert sorted(path.name for path in (tree / "var/lib").iterdir()) == ["fedfleet"]
    assert install(new, "--root", tree).stdout == "fedfleet: 1.3 is installed; nothing changed\n"


@root_alone
def test_links_that_the_agents_user_lays_are_not_followed(tmp_path: Path, tree: Path, made: Path) -> None:
    install(made, "--root", tree)
    (tmp_path / "precious").write_text("precious")
    before = (tmp_path / "precious").lstat()
    (tree / VAR / "claim.pem").symlink_to(tmp_path / "precious")
    (made / "claim.pem").write_text(CLAIM)
    assert install(made, "--root", tree).returncode == 0
    after = (tmp_path / "precious").lstat()
    assert ((tmp_path / "precious").read_text(), after.st_mode, after.st_uid) == (
        "precious",
        before.st_mode,
        before.st_uid,
    )
    assert (tree / VAR / "claim.pem").read_text() == CLAIM
    shutil.copy2(tree / VAR / "claim.pem", tmp_path / "alike")
    (tree / VAR / "claim.pem").unlink()
    (tree / VAR / "claim.pem").symlink_to(tmp_path / "alike")
    (made / "claim.pem").write_text(CLAIM)
    assert install(made, "--root", tree).returncode == 0
    assert not (tree / VAR / "claim.pem").is_symlink()
    shutil.rmtree(tree / VAR / "slots")
    (tree / VAR / "slots").symlink_to(tmp_path)
    assert "is a link: remove it" in install(made, "--root", tree).stderr


def test_it_is_taken_off_and_what_is_the_owners_stays(tree: Path, made: Path) -> None:
    install(made, "--root", tree)
    (tree / VAR / "state").mkdir()
    assert f"rm -r {tree}/etc/fedfleet {tree}/{VAR}" in install(made, "--root", tree, "--uninstall").stdout
    assert [path.name for path in (tree / VAR).iterdir()] == ["state"]
    assert not (tree / "usr/lib/fedfleet").exists()
    assert list((tree / "etc/systemd/system").rglob("*agent*")) == []
    assert (tree / "etc/fedfleet/agent.toml").is_file()
    assert install(made, "--root", tree, "--uninstall").stdout == "fedfleet: it is not installed; nothing changed\n"
    assert install(made, "--root", tree).returncode == 0


@root_alone
def test_without_root_it_installs_into_a_tree_alone(tmp_path: Path, tree: Path, made: Path) -> None:
    nobody = 65534
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    subprocess.run(["chown", "-R", str(nobody), tree], check=True)
    assert "run this as root" in install(made, user=nobody).stderr
    result = install(made, "--root", tree, user=nobody)
    assert result.returncode == 0, result.stderr
    assert (tree / VAR).stat().st_uid == nobody
