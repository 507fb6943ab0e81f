"""Which wheels fit which board, and what of a lock a board needs."""

from __future__ import annotations

from pathlib import Path

import packed
import pytest

from fedfleet.cloud.bundle import lock, parts
from fedfleet.cloud.bundle.boards import BOARDS, board
from fedfleet.wire.errors import SettingsError

FITS = {
    "bookworm64": [
        "numpy-1.26.4-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
        "tflite_runtime-2.14.0-cp311-cp311-manylinux_2_34_aarch64.whl",
        "protobuf-7.36.2-cp310-abi3-manylinux2014_aarch64.whl",
        "flatbuffers-25.12.19-py2.py3-none-any.whl",
    ],
    "bookworm32": ["tflite_runtime-2.14.0-cp311-cp311-manylinux_2_34_armv7l.whl", "paho_mqtt-2.2.0-py3-none-any.whl"],
    "trixie64": [
        "ai_edge_litert-2.3.0-cp313-cp313-manylinux_2_27_aarch64.whl",
        "a-1-cp313-cp313-manylinux_2_41_aarch64.whl",
    ],
}


@pytest.mark.parametrize(("name", "wheel"), [(name, wheel) for name, wheels in FITS.items() for wheel in wheels])
def test_what_fits(name: str, wheel: str) -> None:
    assert board(name).misfit(wheel) == ""


@pytest.mark.parametrize(
    ("name", "wheel"),
    [
        ("bookworm64", "numpy-1.26.4-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"),
        ("bookworm64", "numpy-2.5.5-cp313-cp313-manylinux_2_27_aarch64.whl"),
        ("bookworm64", "a-1-cp311-cp311-manylinux_2_38_aarch64.whl"),  # of a newer glibc
        ("bookworm64", "a-1-cp311-cp311-musllinux_1_2_aarch64.whl"),
        ("bookworm32", "tflite_runtime-2.14.0-cp311-cp311-manylinux_2_34_aarch64.whl"),
        ("trixie64", "a-1-cp313-cp313t-manylinux_2_27_aarch64.whl"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(name: str, wheel: str) -> None:
    said = board(name).misfit(wheel)
    assert said.startswith(f"{wheel} is for ")
    assert said.endswith(f"{name} has Python {board(name).python} on {board(name).machine}")
    assert "\n" not in said


def test_a_file_that_is_no_wheel() -> None:
    assert board("trixie64").misfit("numpy.zip") == "numpy.zip is not the name of a wheel"


def test_a_board_without_a_runtime_is_told_what_to_do() -> None:
    with pytest.raises(SettingsError, match=r"no LiteRT runtime for Python 3.13 on 32-bit ARM: flash 64-bit Trixie"):
        board("trixie32")
    with pytest.raises(SettingsError, match="board buster is none of bookworm64, bookworm32, trixie64"):
        board("buster")


def test_each_board_has_a_runtime_numpy_and_paho_in_its_lock() -> None:
    found = {
        name: {pinned.name: pinned.version for pinned in lock.read(parts.lock(one.lock), one)}
        for name, one in BOARDS.items()
    }
    assert found["bookworm64"].keys() == {"numpy", "paho-mqtt", "tflite-runtime"}
    assert found["bookworm32"].keys() == {"paho-mqtt", "tflite-runtime"}
    assert found["trixie64"].keys() > {"numpy", "paho-mqtt", "ai-edge-litert"}
    assert "colorama" not in found["trixie64"]  # for another system
    assert found["bookworm64"]["numpy"].startswith("1.")  # what that runtime was built for


def test_markers_are_those_of_the_board_not_ours(tmp_path: Path) -> None:
    old, new = (packed.wheel(tmp_path, "numpy", version=version) for version in ("1.0", "2.0"))
    text = packed.lock(tmp_path / "a", old, marker="python_full_version < '3.12'").read_text()
    text += packed.lock(
        tmp_path / "b", new, marker="python_full_version >= '3.12' and platform_machine == 'aarch64'"
    ).read_text()
    (tmp_path / "lock").write_text("# of two\n\n" + text)
    assert [pinned.version for pinned in lock.read(tmp_path / "lock", board("bookworm64"))] == ["1.0"]
    assert [pinned.version for pinned in lock.read(tmp_path / "lock", board("trixie64"))] == ["2.0"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("numpy==1.0\n", "numpy has no hashes in the lock"), ("what is this --hash=sha256:00\n", "no line of a lock")],
)
def test_a_lock_that_is_none(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "lock").write_text(text)
    with pytest.raises(SettingsError, match=reason):
        lock.read(tmp_path / "lock", board("trixie64"))
    with pytest.raises(SettingsError, match="cannot be read"):
        lock.read(tmp_path / "absent", board("trixie64"))
