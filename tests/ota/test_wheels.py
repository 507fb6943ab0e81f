"""What of a wheel gets into a slot: all of it, unharmed, or nothing."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ota.boards import bundle_of, install, wheel
from ota.devices import AGENT, Device
from ota.owners import Owner

from fedfleet.edge.ota import wheels
from fedfleet.edge.ota.slots import Slots
from fedfleet.wire import files
from fedfleet.wire.bundle import Bundle, Wheel
from fedfleet.wire.errors import ReleaseError, StoreError


def made(path: Path) -> tuple[Wheel, Path]:
    """Return the wheel at `path` as a release names it, under its digest among blobs."""
    found = Wheel(path.name, files.digest(path), path.stat().st_size)
    (path.parent / "blobs").mkdir(exist_ok=True)
    return found, Path(shutil.copy(path, path.parent / "blobs" / found.sha256))


def test_a_byte_changed_at_every_kib_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    found, blob = made(wheel(tmp_path / "agent-2.0-py3-none-any.whl", {"a.py": bytes(range(256)) * 64, **AGENT}))
    slots, data = Slots(tmp_path / "slots", "1.0.0"), blob.read_bytes()
    slots.folder.mkdir()
    bundle = Bundle("2.0.0", "3.11", "any", (found,))
    places = range(0, len(data), 1024)
    assert len(places) >= 4
    for at in (*places, len(data) - 1):
        blob.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        with pytest.raises(ReleaseError, match="has rotted on the disk"):
            list(slots.add(bundle, b"{}", blob.parent))
        assert list((slots.folder / ".2.0.0.tmp" / "site").iterdir()) == []
        assert not (slots.folder / "2.0.0").exists()
    blob.write_bytes(data)
    list(slots.add(bundle, b"{}", blob.parent))
    assert (slots.folder / "2.0.0/site/a.py").read_bytes() == bytes(range(256)) * 64
    assert not (slots.folder / ".2.0.0.tmp").exists()


@pytest.mark.parametrize("name", ["../x.py", "/etc/x.py", "a/../../x.py", "a\\..\\x.py", "./x.py", "a/./x.py"])
def test_a_path_that_leaves_the_slot_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as archive:
        archive.writestr("good.py", b"1")
        archive.writestr(zipfile.ZipInfo(name), b"2")
    (tmp_path / "a" / "site").mkdir(parents=True)
    with pytest.raises(ReleaseError, match="leaves the slot"):
        list(wheels.unpack(tmp_path / "bad.whl", tmp_path / "a" / "site"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "bad.whl"]


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("link.py")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def bomb(archive: zipfile.ZipFile) -> None:
    for number in range(9):
        with archive.open(f"{number}.bin", "w", force_zip64=True) as file:
            for _ in range(64):
                file.write(bytes(2**20))


def many(archive: zipfile.ZipFile) -> None:
    for number in range(wheels.MAX_FILES + 1):
        archive.writestr(f"{number}.py", b"")


@pytest.mark.parametrize(
    ("fill", "why"),
    [
        (link, "link.py is no plain file"),
        (bomb, r"9 files of 603979776 bytes; at most"),
        (many, "20001 files of 0 bytes"),
    ],
)
def test_what_no_wheel_has_is_refused(tmp_path: Path, fill: Callable[[zipfile.ZipFile], None], why: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        fill(archive)
    (tmp_path / "site").mkdir()
    with pytest.raises(ReleaseError, match=why):
        list(wheels.unpack(tmp_path / "bad.whl", tmp_path / "site"))
    assert list((tmp_path / "site").iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as archive:
        archive.writestr("a.py", b"1")
        archive.writestr("a.py", b"2")
    (tmp_path / "site").mkdir()
    with pytest.raises(ReleaseError, match="is there already"):
        list(wheels.unpack(tmp_path / "bad.whl", tmp_path / "site"))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"x" * 1000])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.whl").write_bytes(data)
    (tmp_path / "site").mkdir()
    with pytest.raises(ReleaseError, match="bad.whl is no wheel"):
        list(wheels.unpack(tmp_path / "bad.whl", tmp_path / "site"))


def test_a_large_wheel_is_unpacked_in_steps(tmp_path: Path) -> None:
    whole = bytes(range(256)) * (4 * wheels.STEP // 256)
    path = wheel(tmp_path / "a-1.0-py3-none-any.whl", {"a.bin": whole})
    (tmp_path / "site").mkdir()
    assert len(list(wheels.unpack(path, tmp_path / "site"))) == 4
    assert (tmp_path / "site" / "a.bin").read_bytes() == whole


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    path = wheel(tmp_path / "a-1.0-py3-none-any.whl", {"a/b.py": b"1"})
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a").touch()
    with pytest.raises((StoreError, ReleaseError), match="site/a"):
        list(wheels.unpack(path, tmp_path / "site"))


def test_a_wheel_is_taken_over_only_where_every_file_of_it_is_sound(tmp_path: Path) -> None:
    name = "agent-1.0-py3-none-any.whl"
    install(tmp_path / "slots", bundle_of(tmp_path / "b", "1.0.0", {"agent": AGENT}))
    old = tmp_path / "slots" / "1.0.0" / "site"
    assert wheels.has(name, old)
    (tmp_path / "one").mkdir()
    assert wheels.take_over(name, old, tmp_path / "one")
    assert (tmp_path / "one/fedfleet/edge/big.py").samefile(old / "fedfleet/edge/big.py")
    record = old / "agent-1.0.dist-info" / "RECORD"
    text = record.read_text()
    for number, harm in enumerate(("rot", "gone", "link", "outside", "none")):
        big = old / "fedfleet/edge/big.py"
        data = big.read_bytes()
        if harm == "rot":
            big.write_bytes(data[:-1] + b"?")
        elif harm == "gone":
            big.unlink()
        elif harm == "link":
            big.rename(tmp_path / "elsewhere")
            big.symlink_to(tmp_path / "elsewhere")
        else:
            record.write_text(text.replace("fedfleet/edge/big.py", "../x.py") if harm == "outside" else "")
        assert not wheels.has(name, old), harm
        (tmp_path / str(number)).mkdir()
        assert not wheels.take_over(name, old, tmp_path / str(number)), harm
        big.unlink(missing_ok=True)
        big.write_bytes(data)
        record.write_text(text)
    assert wheels.has(name, old)


def test_a_wheel_that_the_slot_has_is_not_fetched(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "owner")
    device = Device(tmp_path / "board", owner)
    owner.release(bundle_of(tmp_path / "b", "2.0.0", {"agent": AGENT, "more": {"more.py": b"1"}}))
    device.publish("2.0.0")
    before = device.bus.received
    device.look()
    assert device.current == "2.0.0"
    assert device.bus.received - before < 20_000  # the wheel of the agent alone has as much as that
    assert (tmp_path / "board/slots/2.0.0/site/more.py").read_bytes() == b"1"
