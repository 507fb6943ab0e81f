"""The shape of a mesh of devices: how many parts of the batch, how many parts of the weights. No TensorFlow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedfleet.wire.errors import SettingsError

HOW = "write it as batch=2,model=2"
TEXT = re.compile(r"batch=(\d{1,4}),model=(\d{1,4})")


@dataclass(frozen=True)
class Grid:
    """`batch` times `model` devices: each takes one part of every batch, and keeps one part of the weights."""

    batch: int
    model: int

    @property
    def devices(self) -> int:
        """How many devices it is of."""
        return self.batch * self.model

    def __str__(self) -> str:
        return f"batch={self.batch},model={self.model}"


def parse(text: str) -> Grid:
    """Return the grid that `batch=B,model=M` says; raises SettingsError."""
    found = TEXT.fullmatch(text.replace(" ", ""))
    if found is None:
        raise SettingsError(f"{text!r} is no mesh; {HOW}")
    grid = Grid(*map(int, found.groups()))
    if grid.devices == 0:
        raise SettingsError(f"a mesh has at least one device, and {grid} none; {HOW}")
    return grid
