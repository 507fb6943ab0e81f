"""The aggregator's link while it refines: a real broker, which hangs up on whoever is silent for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.cloud.refine import tune
from fedfleet.cloud.refine.student import Student
from fedfleet.models.compiled import Compiled
from fedfleet.sim.brokers import running
from fedfleet.wire.mqtt import MqttBus

KEEPALIVE = 5
SILENCE = 1.5 * KEEPALIVE + 2.5  # a broker hangs up after one and a half times the keepalive


def test_the_link_is_kept(dense: Any, compiled: Callable[..., Compiled], x: Any, tmp_path: Path) -> None:
    student = Student(compiled(), dense(), tune.each("sparse_categorical_crossentropy"))
    with running("auto", tmp_path) as (broker, _):
        bus = MqttBus(replace(broker, keepalive=KEEPALIVE), "cloud")
        try:
            end = time.monotonic() + SILENCE
            while time.monotonic() < end:
                student.fit(compiled().weights, x, np.zeros(30, np.int32), [np.arange(30)] * 500, [0.001] * 500)
            assert (bus.connections, bus.reason) == (1, "")
        finally:
            bus.close()
