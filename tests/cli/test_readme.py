"""Every command of the README is run: those of the shell here, the make targets by what CI runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, environment

from fedfleet.cloud.broker.server import SBIN
from fedfleet.sim.brokers import mosquitto

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
SHELL = [block for block in BLOCKS if not block.startswith("make ")]
MAKE = [
    line.removeprefix("make ").strip() for block in BLOCKS if block.startswith("make ") for line in block.splitlines()
]


def tools(folder: Path) -> str:
    """Make `fedfleet`, `fedfleet-agent` and `python` of this interpreter, as an installation would."""
    folder.mkdir()
    for name, module in (("fedfleet", "-m fedfleet.cli.main"), ("fedfleet-agent", "-m fedfleet.edge"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}:{SBIN}"


def test_the_readme_has_what_this_test_expects() -> None:
    assert len(SHELL) == 4
    assert "demo" in MAKE


@pytest.mark.parametrize("number", range(len(SHELL)))
def test_the_commands_work_as_printed(number: int, tmp_path: Path) -> None:
    block = SHELL[number]
    if "mosquitto" in block and mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    script = f"set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT\n{block}"
    variables = {**environment(), "PATH": tools(tmp_path / "bin")}
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=400, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    if "aggregate" in block:
        assert "done: the trained model is in" in result.stdout
        accuracy = float(re.findall(r"round 10 closed: 2 of 2 .* accuracy ([\d.]+)", result.stdout)[0])
        assert accuracy > 0.95
    elif "pki init" in block:
        assert "result board=bookworm64" in result.stdout
        assert (tmp_path / "examples" / "pumps" / "pump-3.pem").stat().st_mode & 0o077 == 0
    else:
        runs = re.findall(r"^fedfleet (?:simulate|train|compare)(?! --help)", block, re.MULTILINE)
        assert len(re.findall(r"^result ", result.stdout, re.MULTILINE)) == len(runs) >= 4


@pytest.mark.parametrize("target", MAKE)
def test_the_make_targets_exist_and_ci_runs_them(target: str) -> None:
    dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    assert f"make {target}" in (ROOT / ".ci" / "run").read_text()


def test_pictures_and_files_that_it_shows_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (ROOT / path).stat().st_size > 10_000
    for path in ("docs/wire.md", "edge/lock.txt", "edge/lock-32.txt", "edge/agent.example.toml", "examples/pumps"):
        assert path in text
        assert (ROOT / path).exists()
