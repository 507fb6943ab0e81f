"""A few of the points at which `python -m ota.killed` kills a device in an update; that takes all of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def test_a_device_killed_in_an_update_brings_it_to_its_end(tmp_path: Path, rooms: Callable[..., None]) -> None:
    rooms(Path(__file__).parents[1])
    points = [str(at) for at in range(2, 90, 8)]
    command = [sys.executable, "-W", "error", "-m", "ota.killed", str(tmp_path), *points]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    result = re.search(r"result points=(\d+) tried=11 bad=0 ", found.stdout)
    assert result is not None and int(result[1]) >= 90
