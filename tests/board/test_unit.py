"""The service's unit, as far as it can be judged without starting it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "edge" / "install" / "fedfleet-agent.service"
pytestmark = pytest.mark.usefixtures("modern")


def security(unit: Path, threshold: int) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={threshold}", str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_its_exposure_is_small() -> None:
    result = security(UNIT, 20)
    assert result.returncode == 0, result.stdout
    (found,) = re.findall(r"exposure level for fedfleet-agent.service: ([0-9.]+)", result.stdout)
    assert float(found) <= 2.0
    assert security(UNIT, 5).returncode != 0  # the measure measures


def test_a_bare_unit_would_not_do(tmp_path: Path) -> None:
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\nRestart=always\n")
    assert security(bare, 90).returncode != 0


def test_systemd_knows_every_line_of_it(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/usr/lib/fedfleet/launch", shutil.which("true") or "/bin/true")
    (tmp_path / UNIT.name).write_text(text)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in result.stderr.splitlines() if UNIT.name in line]
    assert ours == []
