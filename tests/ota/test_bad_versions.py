"""Versions that are no good, on a real board: each is gone back from within three starts, and the old one says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from brokers import needs_mosquitto
from ota.boards import ROOT, bundle
from ota.fleets import Cloud, fleet

from fedfleet.models.compiled import Compiled
from fedfleet.wire.release import outcome

pytestmark = needs_mosquitto
EDGE = ROOT / "edge"
HANG = """
import os, time
from pathlib import Path
Path(os.environ["FEDFLEET_SLOTS"], "hangs").touch()
time.sleep(3600)
"""


HOG = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)); bytearray(2**33)"


def changed(name: str, old: str, new: str) -> dict[str, str]:
    """Return a file of the agent with a part of it replaced."""
    text = (EDGE / name).read_text()
    assert text.count(old) == 1
    return {name: text.replace(old, new)}


def bad() -> dict[str, tuple[dict[str, str], str]]:
    """Return versions by name: what is changed in them, and what is said of them."""
    state, main = "fedfleet/edge/state.py", "fedfleet/edge/__main__.py"
    refuse = 'raise StoreError("memory.json is of a format that is too old")\n        if not path.exists():'
    return {
        "exits at once": ({main: "import sys\nsys.exit(3)\n"}, "it ended before it said anything"),
        "cannot be imported": ({main: "import no_such_module\n"}, "it ended before it said anything"),
        "crashes": (
            changed("fedfleet/edge/agent.py", "        self._counted_down = 0\n", "        1 / 0\n"),
            "it ended with ZeroDivisionError: division by zero",
        ),
        "takes all memory": (
            changed("fedfleet/edge/agent.py", "        self._counted_down = 0\n", f"        {HOG}\n"),
            "it ended with MemoryError",
        ),
        "cannot train": (
            changed("fedfleet/edge/worker.py", "import sys\n", "import sys\n\nraise SystemExit('no runtime')\n"),
            "declined: ",
        ),
        "cannot read old state": (changed(state, "if not path.exists():", refuse), "of a format that is too old"),
        "cannot read its settings": (
            changed("fedfleet/edge/settings.py", "    fleet: str\n", "    fleet: str\n    region: str\n"),
            "agent.toml: region is missing",
        ),
    }


def gone_back(cloud: Cloud, why: str) -> None:
    """Go on until the board says that it has gone back, and look what there is."""
    board = cloud.board
    cloud.until(lambda: outcome(cloud.status.release)[:2] == ("2.0.0", "back"))
    assert cloud.status.version == board.current == "1.0.0"
    assert why in outcome(cloud.status.release)[2]
    failed = json.loads((board.slots / "failed.json").read_text())
    assert (failed["slot"], failed["starts"]) == ("2.0.0", 3)
    assert not (board.slots / "trial.json").exists()
    starts = board.starts
    cloud.rounds(2)
    assert board.starts == starts, "it was tried again"


@pytest.mark.parametrize("name", bad())
def test_a_version_that_is_no_good_is_gone_back_from(name: str, small: Compiled, tmp_path: Path) -> None:
    files, why = bad()[name]
    with fleet(small, tmp_path, deadline=4.0) as cloud:
        cloud.rounds(1)
        cloud.owner.release(bundle(tmp_path / "b", "2.0.0", files))
        cloud.publish("2.0.0")
        gone_back(cloud, why)
        assert cloud.board.starts <= 5  # 1.0.0, three of 2.0.0, 1.0.0


def test_a_version_that_hangs_is_killed_by_the_watchdog_and_the_next_one_is_tried(
    small: Compiled, tmp_path: Path
) -> None:
    with fleet(small, tmp_path, deadline=4.0) as cloud:
        board, hangs = cloud.board, cloud.board.slots / "hangs"
        cloud.rounds(1)
        cloud.owner.release(bundle(tmp_path / "b", "2.0.0", {"fedfleet/edge/__main__.py": HANG}))
        cloud.publish("2.0.0")
        for _ in range(3):
            cloud.until(hangs.exists)
            hangs.unlink()
            board.kill()
        gone_back(cloud, "it ended before it said anything")
        cloud.owner.release(bundle(tmp_path / "c", "2.1.0"))
        cloud.publish("2.1.0")
        cloud.until(lambda: cloud.status.release.startswith("2.1.0 good"))
        cloud.rounds(1)
        assert sorted(path.name for path in board.slots.iterdir() if path.is_dir() and not path.is_symlink()) == [
            "1.0.0",
            "2.1.0",
        ]
