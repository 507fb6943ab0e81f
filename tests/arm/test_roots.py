"""What `make test-arm` does without a network: it says what is missing, and asks pip for what our locks name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from arm import roots
from processes import environment


def run(path: Path) -> subprocess.CompletedProcess[str]:
    variables = {**environment(), "PATH": str(path)}
    variables["PYTHONPATH"] += f":{roots.ROOT / 'tests'}"
    command = [sys.executable, "-m", "arm.same_on_boards"]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60, check=False)


def test_without_qemu_it_says_so_in_one_line_and_runs_nothing(tmp_path: Path) -> None:
    for tool in ("apt-get", "dpkg-deb", "qemu-arm-static"):
        (tmp_path / tool).symlink_to("/bin/false")
    ended = run(tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == (
        "test-arm cannot run: qemu-aarch64-static not found; on Debian 12, as root: apt-get install qemu-user-static\n"
    )


@pytest.mark.parametrize("board", roots.BOARDS, ids=lambda board: board.machine)
def test_a_root_that_cannot_be_fetched_leaves_none_that_looks_finished(
    board: roots.Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho first >&2\necho no network >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):  # what the first leaves is no hindrance
        with pytest.raises(
            roots.Missing, match=f"^Debian's packages for {board.debian} could not be had: no network; "
        ):
            roots.root(board, tmp_path / "cache")
    assert not [
        path for path in (tmp_path / "cache").iterdir() if "unfinished" not in path.name and "apt" not in path.name
    ]


@pytest.mark.parametrize("board", roots.BOARDS, ids=lambda board: board.machine)
def test_wheels_are_pinned_by_our_locks_whatever_this_machine_is(board: roots.Board) -> None:
    pins = roots.pinned((roots.ROOT / board.lock).read_text(), board.wheels)
    heads = [line for line in pins.splitlines() if "==" in line]
    assert sorted(head.partition("==")[0] for head in heads) == sorted(board.wheels)
    assert not [head for head in heads if ";" in head or not head.endswith("\\")]
    assert pins.count("--hash=sha256:") >= len(heads)


def test_the_board_sees_its_own_libraries_and_never_this_machine_s() -> None:
    words = roots.command(roots.BOARDS[1], Path("/root-of-it"), "script.py")
    assert words[0] == "qemu-arm-static"
    assert words[-2:] == ["/root-of-it/usr/bin/python3.11", "script.py"]
    path = next(word for word in words if word.startswith("PYTHONPATH=")).partition("=")[2].split(":")
    assert [folder for folder in path if not folder.startswith("/root-of-it")] == [str(roots.ROOT / "edge")]
