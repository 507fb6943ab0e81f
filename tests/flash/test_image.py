"""Images as they are downloaded: how large they are is known before they are unpacked."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import cards
import pytest

from fedfleet.cloud.flash import image
from fedfleet.wire.errors import SettingsError


@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000, 3_000_001])
def test_the_unpacked_size_is_in_the_archive(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").write_bytes(lzma.compress(bytes(size)))
    assert image.size(tmp_path / "x") == size
    (tmp_path / "y").write_bytes(bytes(size))
    assert image.size(tmp_path / "y") == size


def test_an_archive_of_many_blocks(tmp_path: Path) -> None:
    if shutil.which("xz") is None:
        pytest.skip("xz is not installed")
    (tmp_path / "plain").write_bytes(bytes(1_000_001))
    (tmp_path / "x").write_bytes(cards.run("xz", "-0", "--block-size=4096", "-c", tmp_path / "plain"))
    assert image.size(tmp_path / "x") == 1_000_001


@pytest.mark.parametrize("cut", [1, 4, 12, 40])
def test_an_archive_that_is_cut_off_says_nothing(tmp_path: Path, cut: int) -> None:
    (tmp_path / "x").write_bytes(lzma.compress(bytes(5000))[:-cut])
    assert image.size(tmp_path / "x") == 0


def test_a_copy_is_gone_when_it_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1" * 1000 + bytes(5000))
    seen = list[tuple[str, int, int]]()
    with image.copied(tmp_path / "x", tmp_path / "out", lambda *step: seen.append(step)) as copy:
        assert copy.read_bytes() == (tmp_path / "x").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert seen == [("copying", 6000, 6000)]
    with image.copied(tmp_path / "x", tmp_path / "out", lambda *step: None) as copy:
        assert image.keep(copy, tmp_path / "out")
    with image.copied(tmp_path / "x", tmp_path / "out", lambda *step: None) as copy:
        assert not image.keep(copy, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x"]


def test_what_is_packed_otherwise(tmp_path: Path) -> None:
    for magic, tool in ((b"\x1f\x8b", "gunzip"), (b"PK\x03\x04", "unzip"), (b"\x28\xb5\x2f\xfd", "unzstd")):
        (tmp_path / "x").write_bytes(magic + bytes(100))
        with pytest.raises(SettingsError, match=f"unpack it first with {tool}"):
            image.size(tmp_path / "x")
