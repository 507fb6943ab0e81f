"""Others' wheels: from a folder, from the cache, by a real pip without a network; always those that the lock names."""

from __future__ import annotations

from pathlib import Path

import packed
import pytest

from fedfleet.cloud.bundle import lock, wheels
from fedfleet.cloud.bundle.boards import board
from fedfleet.cloud.bundle.lock import Pinned
from fedfleet.wire.errors import SettingsError, StoreError

BOARD = board("bookworm64")
OURS, OTHERS = "cp311-cp311-manylinux_2_17_aarch64", "cp311-cp311-manylinux_2_17_x86_64"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with wheels of two packages, which is all that pip finds."""
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "shelf"),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    packed.wheel(tmp_path / "shelf", "paho")
    packed.wheel(tmp_path / "shelf", "numpy", OURS)
    packed.wheel(tmp_path / "shelf", "numpy", OTHERS)
    return tmp_path / "shelf"


@pytest.fixture
def pinned(shelf: Path, tmp_path: Path) -> list[Pinned]:
    return lock.read(packed.lock(tmp_path / "lock.txt", *sorted(shelf.iterdir())), BOARD)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


WANTED = [f"numpy-1.0-{OURS}.whl", "paho-1.0-py3-none-any.whl"]


def test_pip_fetches_what_the_board_needs_and_once_is_enough(tmp_path: Path, shelf: Path, pinned: list[Pinned]) -> None:
    found = wheels.downloaded(pinned, BOARD, tmp_path / "cache")
    assert names(found) == WANTED
    for path in shelf.iterdir():
        path.unlink()
    assert wheels.downloaded(pinned, BOARD, tmp_path / "cache") == found
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(path.parent.name for path in found)


def test_a_wheel_that_rots_in_the_cache_is_fetched_again(tmp_path: Path, pinned: list[Pinned]) -> None:
    found = wheels.downloaded(pinned, BOARD, tmp_path / "cache")
    sound = found[0].read_bytes()
    found[0].write_bytes(sound[:-1])
    assert wheels.downloaded(pinned, BOARD, tmp_path / "cache") == found
    assert found[0].read_bytes() == sound


def test_bytes_that_the_lock_does_not_name_are_not_taken(tmp_path: Path, shelf: Path, pinned: list[Pinned]) -> None:
    packed.wheel(shelf, "paho", text="x = 'evil'\n")
    with pytest.raises(SettingsError, match="the wheels of bookworm64 cannot be fetched: .*without a network"):
        wheels.downloaded(pinned, BOARD, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(SettingsError, match="is not the file that the lock names for paho 1.0"):
        wheels.given(pinned, BOARD, shelf)


def test_a_cache_that_cannot_be_written(tmp_path: Path, pinned: list[Pinned]) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(StoreError, match="set XDG_CACHE_HOME"):
        wheels.downloaded(pinned, BOARD, tmp_path / "cache" / "wheels")


def test_a_folder_serves_where_there_is_no_network(shelf: Path, pinned: list[Pinned]) -> None:
    assert names(wheels.given(pinned, BOARD, shelf)) == WANTED


@pytest.mark.parametrize("tag", [OTHERS, "cp313-cp313-manylinux_2_17_aarch64"])
def test_a_wheel_for_another_machine_or_python_is_refused(shelf: Path, pinned: list[Pinned], tag: str) -> None:
    for path in shelf.glob("numpy-*"):
        path.unlink()
    packed.wheel(shelf, "numpy", tag)
    with pytest.raises(SettingsError) as caught:
        wheels.given(pinned, BOARD, shelf)
    assert str(caught.value) == f"numpy-1.0-{tag}.whl is for {tag}; bookworm64 has Python 3.11 on aarch64"


def test_a_folder_without_the_wheel_or_no_folder(tmp_path: Path, shelf: Path, pinned: list[Pinned]) -> None:
    (shelf / "paho-1.0-py3-none-any.whl").unlink()
    (shelf / "rubbish.whl").touch()
    with pytest.raises(SettingsError, match=r"has no wheel of paho 1.0 for bookworm64"):
        wheels.given(pinned, BOARD, shelf)
    with pytest.raises(SettingsError, match="no such folder of wheels"):
        wheels.given(pinned, BOARD, tmp_path / "absent")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wheels.cache() == tmp_path / "fedfleet" / "wheels"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by the specification
    assert wheels.cache() == Path.home() / ".cache" / "fedfleet" / "wheels"
