"""`fedfleet bundle`: the whole folder or none, the same bytes every time, and nothing of the cloud in it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import commands
import packed
import pytest

from fedfleet.cloud.bundle import agent, lock, make, parts
from fedfleet.cloud.bundle.boards import Board, board
from fedfleet.wire.errors import SettingsError

BOARD = board("bookworm64")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with what the lock of `BOARD` names, but of other bytes."""
    for pinned in lock.read(parts.lock(BOARD.lock), BOARD):
        packed.wheel(tmp_path / "wheels", pinned.name.replace("-", "_"), version=pinned.version)
    return tmp_path / "wheels"


@pytest.fixture
def own(tmp_path: Path) -> Board:
    """A board that needs nothing but the agent."""
    (tmp_path / "empty.txt").touch()
    return Board("own", "3.11", "aarch64", 36, str(tmp_path / "empty.txt"))


def test_the_agents_wheel_is_the_same_bytes_every_time() -> None:
    first = agent.wheel("1.2")
    folder = parts.room("wire")
    os.utime(folder / "frames.py")  # as a fresh checkout has other times
    assert hashlib.sha256(agent.wheel("1.2")).hexdigest() == hashlib.sha256(first).hexdigest()
    assert agent.wheel("1.3") != first


def test_the_agents_wheel_holds_wire_and_edge_alone_and_runs(tmp_path: Path) -> None:
    path = tmp_path / agent.file_name("1.2")
    path.write_bytes(agent.wheel("1.2"))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "site")
        rooms = {"/".join(name.split("/")[:2]) for name in archive.namelist() if name.startswith("fedfleet/")}
        assert archive.namelist() == sorted(archive.namelist())
        assert {entry.date_time for entry in archive.infolist()} == {agent.EPOCH}
        record = archive.read("fedfleet_agent-1.2.dist-info/RECORD").decode().splitlines()
        assert {line.split(",")[0] for line in record} == set(archive.namelist())
    assert rooms == {"fedfleet/wire", "fedfleet/edge"}
    code = "import fedfleet.edge.__main__ as m, importlib.metadata as d; print(m.__file__, d.version('fedfleet-agent'))"
    clean = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean).stdout
    assert said.split() == [str(tmp_path / "site/fedfleet/edge/__main__.py"), "1.2"]


def test_pip_takes_the_agents_wheel(tmp_path: Path) -> None:
    path = tmp_path / agent.file_name("1.2")
    path.write_bytes(agent.wheel("1.2"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        "--target",
        str(tmp_path / "t"),
        str(path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "t" / "fedfleet" / "edge" / "agent.py").is_file()


def test_a_bundle_is_what_its_release_says(tmp_path: Path, own: Board) -> None:
    made = make.make(own, tmp_path / "bundle", version="1.2")
    release = json.loads((tmp_path / "bundle" / "release.json").read_text())
    assert (release["version"], release["python"], release["machine"]) == ("1.2", "3.11", "aarch64")
    (wheel,) = release["wheels"]
    data = (tmp_path / "bundle" / "wheels" / wheel["name"]).read_bytes()
    assert (wheel["sha256"], wheel["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert made.size == len(data)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bundle").iterdir() if path.is_file()}
    assert modes.items() >= parts.SCRIPTS.items()
    assert modes.keys() == parts.SCRIPTS.keys() | {"release.json"}


def test_a_bundle_takes_the_place_of_an_older_one(tmp_path: Path, own: Board) -> None:
    make.make(own, tmp_path / "bundle", version="1.2")
    make.make(own, tmp_path / "bundle", version="1.3")
    assert [path.name for path in (tmp_path / "bundle" / "wheels").iterdir()] == [agent.file_name("1.3")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "empty.txt"]


def test_nothing_that_is_not_ours_is_removed(tmp_path: Path, own: Board) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").touch()
    with pytest.raises(SettingsError, match="home is there and is no bundle"):
        make.make(own, tmp_path / "home")
    with pytest.raises(SettingsError, match=r"empty.txt is a file"):
        make.make(own, tmp_path / "empty.txt")
    make.make(own, tmp_path / "bundle")
    (tmp_path / "bundle" / "claim.pem").touch()
    with pytest.raises(SettingsError, match=r"holds claim.pem, which would be lost"):
        make.make(own, tmp_path / "bundle")


def test_a_bundle_whose_wheels_are_refused_leaves_nothing_behind(tmp_path: Path, wheels: Path) -> None:
    said = commands.run("bundle", "--board", BOARD.name, "--out", str(tmp_path / "bundle"), "--wheels", str(wheels))
    assert said.startswith("refused: ") and "is not the file that the lock names" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wheels"]


def test_a_disk_that_refuses_leaves_the_old_bundle_whole(tmp_path: Path, own: Board) -> None:
    make.make(own, tmp_path / "bundle", version="1.2")
    before = (tmp_path / "bundle" / "release.json").read_bytes()
    code = (
        "from pathlib import Path; import resource\n"
        "from fedfleet.cloud.bundle import make; from fedfleet.cloud.bundle.boards import Board\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        f"make.make(Board('own', '3.11', 'aarch64', 36, {own.lock!r}), Path({str(tmp_path / 'bundle')!r}), version='1.3')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot be written: File too large; free the disk" in result.stderr
    assert (tmp_path / "bundle" / "release.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "empty.txt"]


def test_the_command_for_a_real_board(tmp_path: Path) -> None:
    said = commands.run(
        "bundle", "--board", "bookworm32", "--out", str(tmp_path / "b"), "--json", str(tmp_path / "r.json")
    )
    if "cannot be fetched" in said:
        pytest.skip(said)
    assert "numpy is Debian's own python3-numpy there" in said
    release = json.loads((tmp_path / "r.json").read_text())
    assert said.splitlines()[-1].startswith("result board=bookworm32 version=")
    assert [wheel["name"].split("-")[0] for wheel in release["wheels"]] == [
        "fedfleet_agent",
        "paho_mqtt",
        "tflite_runtime",
    ]


def test_the_command_refuses_what_has_no_runtime(tmp_path: Path) -> None:
    said = commands.run("bundle", "--board", "trixie32", "--out", str(tmp_path / "bundle"))
    assert said.startswith("refused: trixie32: there is no LiteRT runtime")
    assert list(tmp_path.iterdir()) == []


def test_help_has_examples() -> None:
    assert "fedfleet bundle --board trixie64 --out card/fedfleet" in commands.run("bundle", "--help")
