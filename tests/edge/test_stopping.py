"""A storm of signals stops a process, whatever it is in the middle of."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from fedfleet.edge.stopping import Stopping

WAITING = """
import os, signal
from fedfleet.edge.stopping import Stopping
stopping, count = Stopping(), [0]
def stop(*_):
    count[0] += 1
    stopping.set()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
print("ready", flush=True)
while not stopping.wait(0.0001) or count[0] < 200:
    pass
os._exit(0)  # an interpreter that ends takes its handlers away first
"""


@pytest.mark.parametrize("times", range(3))
def test_a_storm_of_signals_is_no_deadlock(rooms: Callable[..., None], times: int) -> None:
    rooms()
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGINT)
        finally:
            process.kill()
    assert process.returncode == 0


def test_it_wakes_who_waits_in_another_thread_and_stays_set() -> None:
    stopping, woken = Stopping(), list[bool]()
    assert not stopping.wait(0.0)
    assert not stopping.is_set()
    thread = threading.Thread(target=lambda: woken.append(stopping.wait(60.0)))
    thread.start()
    stopping.set()
    stopping.set()
    thread.join(20)
    assert woken == [True]
    assert stopping.wait(60.0)
    assert stopping.is_set()
