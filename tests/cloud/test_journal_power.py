"""Power cuts of the aggregator: whatever a disk loses that was not synced, each contribution counts once.

What SQLite keeps its promise for is SQLite's own: in these cuts its files are as they are, synced at each commit. What
is ours is the order between them and the journal's other files: blobs and differences are whole before a row names
them, and no file is gone that a row still needs. POWER_CUTS says how many; the same number cuts at the same places.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federations import ALL, DEADLINE, World, fedavg, world
from power import Disk, PowerCut

from fedfleet.cloud import schema
from fedfleet.cloud.journal import KEPT
from fedfleet.cloud.registry import versions
from fedfleet.cloud.settings import Rounds

CUTS = int(os.environ.get("POWER_CUTS", "12"))
DATABASE = (schema.DATABASE, f"{schema.DATABASE}-wal", f"{schema.DATABASE}-shm", "lock")
ROUNDS = KEPT + 3
WHOLE = fedavg(dict.fromkeys(range(1, ROUNDS + 1), ALL))


@contextmanager
def fleet() -> Iterator[World]:
    with world(rounds=Rounds(total=ROUNDS, devices=3, deadline=DEADLINE)) as found:
        yield found


def live(found: World, at: int, image: Path, seed: int) -> tuple[int, bool]:
    """Play on while the aggregator's folder loses its power at point `at`; how many points there were, and whether."""
    cloud = found.folder / "cloud"
    disk = Disk(cloud)
    try:
        with disk.cut(at, image, seed):
            found.play()
    except PowerCut:
        for name in DATABASE:
            if (cloud / name).exists():
                shutil.copy(cloud / name, image / name)
        found.cloud_dies()
        shutil.rmtree(cloud)
        image.rename(cloud)
        return len(disk.points), True
    finally:
        disk.close()
    return len(disk.points), False


def points(tmp_path: Path) -> int:
    """How many points there are in the life of an aggregator."""
    with fleet() as found:
        return live(found, 0, tmp_path / "image", 0)[0]


def test_an_aggregator_that_loses_its_power_counts_all_once_and_leaves_no_rest(tmp_path: Path) -> None:
    every, cut = points(tmp_path), 0
    assert every >= 60
    for seed in range(CUTS):
        chance = random.Random(seed)
        with fleet() as found:
            for number in range(chance.randint(1, 3)):
                if not live(found, chance.randint(1, every), tmp_path / f"{seed}-{number}", seed)[1]:
                    break
                cut += 1
                found.cloud_starts()
            assert found.play() == WHOLE, f"seed {seed}"
            lineage = versions(found.folder / "cloud")
            assert [version.contributors for version in lineage] == [ALL] * ROUNDS, f"seed {seed}"
            assert len(list((found.folder / "cloud" / "blobs").iterdir())) <= KEPT + 3, f"seed {seed}"
            assert list((found.folder / "cloud" / "updates").iterdir()) == [], f"seed {seed}"
    assert cut >= CUTS
