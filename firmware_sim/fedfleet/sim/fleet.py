"""Fleets on one machine: real agents in processes of their own over a broker, or in this process over a loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fedfleet.edge.agent import Agent, birth, death
from fedfleet.edge.data import Store
from fedfleet.edge.local import LocalTrainer
from fedfleet.edge.state import State
from fedfleet.sim.mishaps import Frail, Mishap
from fedfleet.wire.bus import Will
from fedfleet.wire.examples import Examples
from fedfleet.wire.loopback import Hub, LoopbackBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import Topics

GOODBYE = 5.0
LOG = "agent.log"
STORE_BYTES = 64 * 1024 * 1024


class Fleet(Protocol):
    """Devices that train."""

    def step(self) -> None:
        """Give devices that have no life of their own some time."""

    def gone(self) -> list[str]:
        """Return the devices that ended, in order, for the owner to know."""

    def kill(self, devices: Iterable[str]) -> None:
        """End these at once and for good."""

    def close(self) -> None:
        """End all devices."""


class FrailFleet(Fleet, Frail, Protocol):
    """Devices that train, and can be hurt on command."""


def device_id(index: int) -> str:
    """Return the name of a simulated device."""
    return f"d{index}"


def fill(folder: Path, parts: Sequence[Examples]) -> None:
    """Give each device a folder below `folder` with a store that holds its part of the examples."""
    for index, part in enumerate(parts):
        need = 2 * (part.x.nbytes + part.y.nbytes)
        Store.open(folder / device_id(index) / "state" / "examples", max(STORE_BYTES, need)).append(part)


class Processes:
    """Devices that are processes of their own, each with a log in its folder."""

    def __init__(self, folder: Path, commands: Mapping[str, Sequence[str]]) -> None:
        """Start what follows `python -m` for each device; it is given this process's id as its first argument."""
        self._folder = folder
        self._commands = commands
        self._running = {device: self._started(device) for device in commands}

    def _started(self, device: str) -> subprocess.Popen[bytes]:
        module, *rest = self._commands[device]
        with (self._folder / device / LOG).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, str(os.getpid()), *rest],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we end them in order
            )

    def step(self) -> None:
        """Nothing: processes run by themselves."""

    def pids(self) -> dict[str, int]:
        """Return the process id of each device."""
        return {device: process.pid for device, process in self._running.items()}

    def gone(self) -> list[str]:
        """Return the devices whose process has ended."""
        return [device for device, process in self._running.items() if process.poll() is not None]

    def kill(self, devices: Iterable[str]) -> None:
        """End these at once and for good, with all that they started, as a power cut does."""
        for device in devices:
            self._signal(device, signal.SIGKILL)

    def _signal(self, device: str, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._running[device].pid, number)

    def close(self) -> None:
        """Ask all processes to end, and kill those that have not within 5 s."""
        for device, process in self._running.items():
            process.terminate()
            self._signal(device, signal.SIGCONT)  # one that stands still would not hear it
        deadline = time.monotonic() + GOODBYE
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class ProcessFleet(Processes):
    """Agents as the operating system sees them on a board: one process each, and its training child."""

    def __init__(self, folder: Path, devices: int, fleet: str, broker: Broker) -> None:
        """Start `devices` agents on the stores that `fill` made."""
        commands = {}
        for device in map(device_id, range(devices)):
            settings = folder / device / "agent.toml"
            settings.write_text(
                f'device = "{device}"\nfleet = "{fleet}"\n\n'
                f'[broker]\nhost = "{broker.host}"\nport = {broker.port}\n'
                f"keepalive = {broker.keepalive}\nmqtt = {broker.mqtt}\n"
            )
            commands[device] = ("fedfleet.sim.board", "--settings", str(settings))
        super().__init__(folder, commands)

    def afflict(self, mishap: Mishap, devices: Sequence[str]) -> str:
        """Kill them, or have them stand still, which is as much of being off the network as a process can be."""
        if mishap.kind == "kill":
            self.kill(devices)
            return f"{', '.join(devices)}: killed"
        for device in devices:
            self._signal(device, signal.SIGSTOP)
        return f"{', '.join(devices)}: stand still, since a process has no network of its own to be cut off from"

    def relieve(self, mishap: Mishap, devices: Sequence[str]) -> str:
        """Start them again, or have them go on."""
        for device in devices:
            if mishap.kind == "kill":
                self._running[device].wait()
                self._running[device] = self._started(device)
            else:
                self._signal(device, signal.SIGCONT)
        return f"{', '.join(devices)}: {'started again' if mishap.kind == 'kill' else 'go on'}"


class LoopbackFleet:
    """The same agents in this process, one after the other: slower, quieter, and a debugger can follow them."""

    def __init__(self, folder: Path, devices: int, fleet: str, hub: Hub, clock: Callable[[], float]) -> None:
        """Connect `devices` agents to `hub`, on the stores that `fill` made."""
        topics = Topics(fleet)
        self._agents: dict[str, Agent] = {}
        self._buses: dict[str, LoopbackBus] = {}
        for device in map(device_id, range(devices)):
            state = State(folder / device / "state")
            state.begin()
            bus = hub.connect(Will(topics.status(device), birth(state), death(state)))
            trainer = LocalTrainer(device, state.examples)
            self._buses[device], self._agents[device] = bus, Agent(device, topics, bus, state, trainer, clock)

    def step(self) -> None:
        """Step each agent once."""
        for agent in self._agents.values():
            agent.step(0)

    def gone(self) -> list[str]:
        """Return the devices that were killed: all others live as long as we do."""
        return [device for device in self._buses if device not in self._agents]

    def kill(self, devices: Iterable[str]) -> None:
        """Step these no more, and have the hub say so."""
        for device in devices:
            del self._agents[device]
            self._buses[device].die()

    def close(self) -> None:
        """Say goodbye for all."""
        for agent in self._agents.values():
            agent.close()
