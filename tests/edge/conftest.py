from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfleet.edge.child import ChildTrainer
from fedfleet.models.compiled import Compiled
from fedfleet.wire.messages import Blob, Plan, Task


@pytest.fixture
def task(small: Compiled, blobs: tuple[Path, Path]) -> Task:
    """Two passes over what is stored, with the program `small`."""
    return Task(3, Blob.of(small.program), Blob.of(blobs[1].read_bytes()), Plan(epochs=2, learning_rate=0.01), seed=9)


@pytest.fixture
def child(stored: Path, tmp_path: Path) -> Iterator[ChildTrainer]:
    """A trainer on what is stored, in a process of its own that may take 1 GiB; ended with the test."""
    found = ChildTrainer("d1", stored, tmp_path / "trainer.log", memory=2**30)
    yield found
    found.close()
