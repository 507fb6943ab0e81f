"""What install.sh refuses: in one line with the remedy, before anything is done."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trees
from trees import CLAIM, SETTINGS, install, picture

REFUSED = {
    "no settings": ("there are no settings: put agent.toml beside", lambda made, tree: (made / "agent.toml").unlink()),
    "not TOML": ("Expected '=' after a key", lambda made, tree: (made / "agent.toml").write_text("device\n")),
    "state elsewhere": (
        'set state = "/var/lib/fedfleet/state"',
        lambda made, tree: (made / "agent.toml").write_text(SETTINGS.replace("/var/lib/fedfleet/state", "state")),
    ),
    "claim elsewhere": (
        'set claim = "/var/lib/fedfleet/claim.pem" in [enrol]',
        lambda made, tree: (made / "agent.toml").write_text(SETTINGS.partition("[enrol]")[0]),
    ),
    "another machine": (
        "is for Python 3.11 on aarch64, the board has 3.11 on armv7l",
        lambda made, tree: trees.python(tree, "3.11", "armv7l"),
    ),
    "another Python": ("the board has 3.13 on aarch64", lambda made, tree: trees.python(tree, "3.13")),
    "a machine nobody knows": ("on an unknown machine", lambda made, tree: trees.python(tree, "3.11", "riscv64")),
    "no Python": ("usr/bin/python3 is not there", lambda made, tree: (tree / "usr/bin/python3").unlink()),
    "no claim": (
        "claim.pem is no claim: fedfleet enrol claim makes one",
        lambda made, tree: (made / "claim.pem").write_text(SETTINGS),
    ),
    "no openssl": ("usr/bin/openssl is not there", lambda made, tree: (tree / "usr/bin/openssl").unlink()),
    "a damaged wheel": (
        "is damaged, its bytes are not those of release.json",
        lambda made, tree: next((made / "wheels").iterdir()).write_bytes(b"PK"),
    ),
    "no wheel": ("No such file or directory: copy the whole bundle", lambda made, tree: shutil.rmtree(made / "wheels")),
    "no launch": ("launch is missing: copy the whole bundle", lambda made, tree: (made / "launch").unlink()),
    "no release": ("there is no release.json beside", lambda made, tree: (made / "release.json").unlink()),
    "no numpy": ("has no numpy: install python3-numpy in it first", lambda made, tree: shutil.rmtree(tree / "usr/lib")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_looks_before_it_acts(tree: Path, made: Path, case: str) -> None:
    reason, spoil = REFUSED[case]
    (made / "claim.pem").write_text(CLAIM)
    spoil(made, tree)
    before, claim = picture(tree), (made / "claim.pem").read_text()
    result = install(made, "--root", tree)
    assert (result.returncode, result.stdout) == (2, "")
    assert reason in result.stderr and result.stderr.startswith("fedfleet: ")
    assert len(result.stderr.splitlines()) == 1
    assert picture(tree) == before
    assert (made / "claim.pem").read_text() == claim


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_disk_without_room_is_refused(tmp_path: Path, tree: Path, made: Path) -> None:
    (tree / "var").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tree / "var"], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        result = install(made, "--root", tree)
        assert result.returncode == 2
        assert "MiB are needed: make room" in result.stderr
        assert list((tree / "var").iterdir()) == []
    finally:
        subprocess.run(["umount", tree / "var"], check=True)


def test_help_and_options_that_are_none(made: Path) -> None:
    said = install(made, "--help")
    assert (said.returncode, said.stderr) == (0, "")
    assert "install.sh [--settings FILE] [--claim FILE] [--root DIR]" in said.stdout
    for arguments, reason in (
        (["--rot", "x"], "--rot is no option"),
        (["--root"], "--root wants a value"),
        (["--claim", "x"], "x: no such file"),
    ):
        result = install(made, *arguments)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
        assert reason in result.stderr
