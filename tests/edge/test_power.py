"""Power cuts: whatever a disk loses that was not synced, the device goes on and every contribution counts once.

POWER_CUTS says how many; the same number cuts at the same places.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from federations import DEADLINE, World, fedavg, world
from power import Disk, PowerCut

from fedfleet.cloud.settings import Rounds
from fedfleet.wire.messages import CHUNK

CUTS = int(os.environ.get("POWER_CUTS", "40"))
PROGRAM = random.Random(3).randbytes(3 * CHUNK + 100)
TWO = {"d0": 10, "d1": 20}
WHOLE = fedavg({1: TWO, 2: TWO, 3: TWO}, PROGRAM)


@contextmanager
def fleet() -> Iterator[World]:
    with world(devices=2, rounds=Rounds(total=3, devices=2, deadline=DEADLINE), program=PROGRAM) as found:
        yield found


def live(found: World, disk: Disk, at: int, image: Path, seed: int) -> bool:
    """Play on while d0 runs on `disk` and loses its power at point `at`; whether it has."""
    try:
        with disk.cut(at, image, seed):
            found.play()
    except PowerCut:
        found.device_dies("d0")
        shutil.rmtree(disk.root)
        image.rename(disk.root)
        return True
    finally:
        disk.close()
    return False


def points(tmp_path: Path) -> int:
    """How many points there are in the life of a device."""
    with fleet() as found:
        disk = Disk(found.folder / "d0")
        live(found, disk, 0, tmp_path / "image", 0)
        return len(disk.points)


def test_a_device_that_loses_its_power_contributes_once_and_leaves_no_rest(tmp_path: Path) -> None:
    every = points(tmp_path)
    assert every >= 60
    cut = 0
    for seed in range(CUTS):
        chance = random.Random(seed)
        with fleet() as found:
            for number in range(chance.randint(1, 3)):
                disk = Disk(found.folder / "d0")
                if not live(found, disk, chance.randint(1, every), tmp_path / f"{seed}-{number}", seed):
                    break
                cut += 1
                found.device_starts("d0")
            assert found.play() == WHOLE, f"seed {seed}"
            assert [(record.reported, record.examples) for record in found.records] == [(2, 30)] * 3, f"seed {seed}"
            rest = [path.name for path in (found.folder / "d0").rglob("*") if path.suffix in (".part", ".tmp")]
            assert rest == [], f"seed {seed}"
    assert cut >= CUTS


def test_a_disk_that_never_syncs_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut itself is no fake: without syncing, what was written before it is lost."""
    folder = tmp_path / "folder"
    folder.mkdir()
    lost = kept = 0
    for seed in range(40):
        disk = Disk(folder)
        (folder / "file").write_bytes(b"content")
        with pytest.raises(PowerCut), disk.cut(1, tmp_path / f"image{seed}", seed):
            os.truncate(folder / "file", 3)
        after = tmp_path / f"image{seed}" / "file"
        lost += not after.exists() or after.read_bytes() != b"content"
        kept += after.exists() and after.read_bytes() == b"content"
        (folder / "file").unlink()
        disk.close()
    assert lost > 20
    assert kept > 2
