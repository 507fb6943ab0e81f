"""fedfleet as it is installed from its wheel makes bundles too: scripts and locks travel along."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedfleet.cloud.bundle import agent, parts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where our own wheel is unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Could not find a version" in result.stderr or "No matching distribution" in result.stderr:
        pytest.skip("hatchling cannot be fetched here")
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(next(folder.glob("fedfleet-*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_carries_all_that_a_bundle_is_made_of(site: Path) -> None:
    carried = site / "fedfleet" / "cloud" / "bundle" / "board"
    found = {path.name: path.read_bytes() for path in carried.iterdir()}
    wanted = {name: parts.script(name).read_bytes() for name in parts.SCRIPTS}
    wanted |= {name: parts.lock(name).read_bytes() for name in ("lock.txt", "lock-32.txt")}
    assert found == wanted


def test_the_installed_one_makes_the_same_bundle(site: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    code = (
        "from pathlib import Path; from fedfleet.cloud.bundle import make, boards, agent\n"
        f"make.make(boards.Board('own', '3.11', 'aarch64', 36, {str(tmp_path / 'empty.txt')!r}), Path('bundle'), version='1.2')\n"
        "print(make.__file__)"
    )
    clean = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=clean, cwd=tmp_path
    )
    assert result.stdout.startswith(str(site)), result.stderr
    assert (tmp_path / "bundle" / "wheels" / agent.file_name("1.2")).read_bytes() == agent.wheel("1.2")
    assert (tmp_path / "bundle" / "install.sh").read_bytes() == parts.script("install.sh").read_bytes()
