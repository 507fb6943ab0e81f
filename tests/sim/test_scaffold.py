"""A federation of real devices under SCAFFOLD: what the server sums is what the devices keep."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import strategy
from fedfleet.models.compiled import Compiled
from fedfleet.sim.fleet import LoopbackFleet, fill
from fedfleet.wire.examples import Examples
from fedfleet.wire.loopback import Hub
from fedfleet.wire.messages import Plan
from fedfleet.wire.topics import Topics

ROUNDS = Rounds(total=4, devices=3, share=0.6, deadline=60.0)


def part(seed: int) -> Examples:
    """Rows of one class only, a different one on each device."""
    random = np.random.default_rng(seed)
    return Examples(random.normal(size=(20, 300)).astype(np.float32), np.full(20, seed, np.int32))


def own(folder: Path, size: int) -> np.ndarray:  # type: ignore[type-arg]
    """A device's control variate as its newest round left it."""
    newest = max(folder.rglob("control/*/*.weights"), key=lambda path: int(path.stem), default=None)
    return np.frombuffer(newest.read_bytes()[:-32], "<f4") if newest else np.zeros(size, np.float32)


def test_the_server_sums_what_the_devices_keep(small: Compiled, tmp_path: Path) -> None:
    fill(tmp_path / "devices", [part(seed) for seed in range(3)])
    hub, journal = Hub(), Journal(tmp_path / "cloud")
    fleet = LoopbackFleet(tmp_path / "devices", 3, "own", hub, lambda: 0.0)
    plan = Plan(epochs=2, learning_rate=0.05)
    federation = Federation(small.program, small.shared, strategy("scaffold"), plan, ROUNDS, 4)
    aggregator = Aggregator(federation, Topics("own"), hub.connect(), journal, lambda: 0.0)
    while not aggregator.done:
        aggregator.step(0)
        fleet.step()
    model = journal.model()
    assert model is not None
    (total,) = np.load(io.BytesIO(journal.blobs.get(model.moments)))
    journal.close()
    fleet.close()
    kept = [own(tmp_path / "devices" / f"d{i}", small.shared.size) for i in range(3)]
    assert sum(one.any() for one in kept) >= 2
    np.testing.assert_allclose(total, np.sum(kept, axis=0), atol=1e-5)
    assert np.abs(total).max() > 0.01
