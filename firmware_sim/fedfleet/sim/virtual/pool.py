"""What virtual devices share and hold: one interpreter for all, however many they are, and data of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedfleet.edge.runtime import Program
from fedfleet.sim.fleet import device_id
from fedfleet.sim.virtual.faults import Faults
from fedfleet.wire.examples import Examples


class Pool:
    """The newest two programs; each training sets all weights, so nothing of one device reaches another."""

    def __init__(self) -> None:
        self._programs: dict[str, Program] = {}

    def program(self, path: Path, digest: str) -> Program:
        """Return the program `digest`, loaded from `path` where nobody has loaded it yet. Raises ProgramError."""
        if digest not in self._programs:
            self._programs[digest] = Program(path, digest)
            for old in list(self._programs)[:-2]:
                del self._programs[old]
        return self._programs[digest]


def poisoned(parts: Sequence[Examples], faults: Faults, seed: int) -> list[Examples]:
    """Return what each device holds, with the labels of those that attack by them turned round."""
    found = list(parts)
    for index, part in enumerate(parts):
        if faults.attack(seed, device_id(index)) == "labels":
            most = max(int(other.y.max()) for other in parts)
            found[index] = Examples(part.x, most - part.y if part.y.ndim == 1 else -part.y)
    return found
