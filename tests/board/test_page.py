"""docs/board.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trees

from fedfleet.cloud.bundle.boards import BOARDS
from fedfleet.cloud.bundle.lock import read
from fedfleet.cloud.bundle.parts import lock, script
from fedfleet.edge.settings import load_agent

PAGE = (Path(__file__).parents[2] / "docs" / "board.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)


def test_its_settings_are_those_that_the_agent_and_install_sh_take(tmp_path: Path) -> None:
    (settings,) = (text for kind, text in BLOCKS if kind == "toml")
    text = f'device = "d1"\nfleet = "mill"\n{settings}'
    (tmp_path / "agent.toml").write_text(text)
    loaded, folder = load_agent(tmp_path / "agent.toml")
    assert loaded.enrol.claim == "/var/lib/fedfleet/claim.pem"
    assert folder == Path("/var/lib/fedfleet/state")
    made = trees.bundle(tmp_path / "bundle", settings=text)
    (made / "claim.pem").write_text(trees.CLAIM)
    tree = trees.tree(tmp_path / "tree")
    trees.numpy(tree)
    assert trees.install(made, "--root", tree).returncode == 0


def test_what_it_says_lies_there_lies_there(tmp_path: Path) -> None:
    tree = trees.tree(tmp_path / "tree")
    trees.numpy(tree)
    made = trees.bundle(tmp_path / "bundle")
    (made / "claim.pem").write_text(trees.CLAIM)
    trees.install(made, "--root", tree)
    (layout,) = (text for _, text in BLOCKS if "/var/lib/fedfleet/slots/current" in text)
    paths = [line.split()[0].replace("<version>", "1.2") for line in layout.splitlines() if line.startswith("/")]
    assert len(paths) > 7
    missing = [path for path in paths if not (tree / path[1:]).exists()]
    assert missing == ["/var/lib/fedfleet/state/"]  # which the agent makes


@pytest.mark.parametrize("name", BOARDS)
def test_its_table_of_boards_is_that_of_the_locks(name: str) -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
    found = {pinned.name: pinned.version for pinned in read(lock(BOARDS[name].lock), BOARDS[name])}
    runtime = "ai-edge-litert" if "ai-edge-litert" in found else "tflite-runtime"
    assert f"| {BOARDS[name].python} | {runtime} {'.'.join(found[runtime].split('.')[:2])}, " in row
    assert ("Debian's `python3-numpy`" in row) == ("numpy" not in found)


def test_its_minutes_are_the_units() -> None:
    unit = script("fedfleet-agent.service").read_text()
    assert "WatchdogSec=180\n" in unit and "three minutes (`WatchdogSec`)" in PAGE
    assert "ProcSubset" not in re.sub(r"#.*", "", unit)
