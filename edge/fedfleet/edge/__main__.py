"""`fedfleet-agent`: the program on the device."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import time
from contextlib import closing, nullcontext
from pathlib import Path

from fedfleet.edge.agent import Agent, birth, death
from fedfleet.edge.board import ability, resident
from fedfleet.edge.child import ChildTrainer
from fedfleet.edge.enrol import enrolled, identity
from fedfleet.edge.guards import ROOT, Watch
from fedfleet.edge.notify import Pulse, tell
from fedfleet.edge.ota import slots, trial
from fedfleet.edge.ota.trial import RESTART, Gate
from fedfleet.edge.ota.updater import Updater
from fedfleet.edge.renewing import Renewing
from fedfleet.edge.running import Running, hold
from fedfleet.edge.settings import AgentSettings, load_agent
from fedfleet.edge.state import State
from fedfleet.edge.stopping import Stopping
from fedfleet.edge.supervise import kept
from fedfleet.edge.updates import NoUpdates, Updates
from fedfleet.wire.bus import Bus, Will
from fedfleet.wire.errors import FedfleetError, StoreError
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.agent")
POLL = 0.1
REST = 60.0
EXAMPLES = """examples:
  fedfleet-agent --settings agent.toml               follow the fleet's tasks until stopped
  fedfleet-agent --settings agent.toml import data.npz
  fedfleet-agent --settings agent.toml import 'data.csv?label=failure'
  fedfleet-agent --settings agent.toml doctor        what is wrong here, and what to do about it
"""


def main(argv: list[str] | None = None) -> None:
    """Run the agent, or import examples, or look for what is wrong.

    Exits with 0, with 2 where something is to be mended and one line for the owner's mistakes, or with RESTART to be
    started again.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "doctor":
        sys.exit(_doctor(arguments.settings, arguments.json))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    gate = Gate(slots.started(os.environ), math.inf, time.monotonic)
    try:
        settings, folder = load_agent(arguments.settings)
        if arguments.command == "import":
            _import(settings, folder, arguments.file)
        else:
            _run(settings, folder, arguments.settings)
    except FedfleetError as error:
        if arguments.command is None:
            gate.got(str(error))
        print(f"fedfleet-agent: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "fedfleet-agent",
        description="Train the fleet's model on this device's own examples; only updates leave it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE", help="the agent's settings (TOML)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    importing = commands.add_parser("import", help="append examples from a file to the device's store, then exit")
    importing.add_argument("file", help="FILE.npz with arrays x and y, or FILE.csv?label=COLUMN")
    doctor = commands.add_parser("doctor", help="say what keeps the device from training, and what to do about it")
    doctor.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    return parser


def _doctor(file: Path, as_json: bool) -> int:
    """Print what all checks come to; returns the exit code, 2 where something is to be mended."""
    from fedfleet.edge.doctor.checks import look
    from fedfleet.wire.doctor import checkup

    logging.basicConfig(level=logging.CRITICAL)  # what is said below is said once, with its fix
    found = look(file)
    print(checkup.as_json("device", found) if as_json else checkup.as_text(found))
    return checkup.code(found)


def _run(settings: AgentSettings, folder: Path, file: Path) -> None:
    stopping = Stopping()

    def end(*_: object) -> None:
        stopping.set()
        tell("STOPPING=1")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    gate = Gate(slots.started(os.environ), settings.release.trial, time.monotonic)
    gate.confess()
    gate.got("it started")
    held = hold(folder, stopping.wait, patient=not gate.on)
    state = _opened(settings, folder, stopping, patient=not gate.on) if held else None
    command = [sys.executable, "-m", "fedfleet.edge.collect", str(file)]
    if held is not None and state is not None:
        with closing(held), kept("the collector", command, stopping) if settings.collects else nullcontext():
            again = _follow(settings, state, held, stopping, gate, file.resolve().parent)
        if again:
            sys.exit(RESTART)
    gate.stopped()


def _follow(settings: AgentSettings, state: State, held: Running, stopping: Stopping, gate: Gate, base: Path) -> bool:
    """Follow the fleet's tasks until `stopping`; returns whether to be started again."""
    pulse = Pulse(stopping.is_set)
    if not enrolled(settings, pulse.ends):
        return False
    topics = Topics(settings.fleet)
    able, version = ability(ROOT, settings.all_tags), trial.version(gate.slots)
    will = Will(topics.status(settings.device), birth(state, able, version), death(state, able, version))
    bus = MqttBus(settings.broker, settings.device, will, wait=0)  # a device in the field tries for ever
    while not bus.connections and not stopping.wait(POLL) and not gate.failed:
        held.tell(0, bus.reason)
        pulse.ends()  # the bus says why there is none, and when it tries again
        gate.look(waiting=False)
    if stopping.is_set() or gate.failed:
        bus.close()
        return gate.failed
    pulse.ready(f"device {settings.device} of fleet {settings.fleet}")
    log.info("device %s of fleet %s is ready, start %d", settings.device, settings.fleet, state.boot)

    def stopped() -> bool:
        held.tell(bus.connections, bus.reason)
        return pulse.ends(trainer.at_work)

    lasting = Renewing(bus, identity(settings), topics) if settings.enrol.claim else bus
    updates = _updates(settings, state, lasting, gate, base)
    trainer = ChildTrainer(settings.device, state.examples, state.log, wait=lambda: bool(watch().state))
    watch = Watch(settings.guards, state.folder, lambda: resident(ROOT, trainer.process))
    Agent(settings.device, topics, lasting, state, trainer, time.monotonic, watch, able, updates).run(stopped)
    return updates.leaving


def _updates(settings: AgentSettings, state: State, bus: Bus, gate: Gate, base: Path) -> Updates:
    """Return whoever updates the agent, if its owner wants that; what is in the way of it is no reason not to train."""
    name, me = settings.release.root, (settings.device, Topics(settings.fleet), bus)
    try:
        if name and gate.slots is not None:
            anchor = (base / name).read_bytes()
            return Updater(*me, gate.slots, gate, state.folder / "release", anchor, settings.all_tags, time.monotonic)
        if name:
            log.warning("no updates over the air: release.root is set, but launch has not started this agent")
    except OSError as error:
        log.warning("no updates over the air: release.root: %s cannot be read: %s", base / name, error.strerror)
    except StoreError as error:
        log.warning("no updates over the air: %s", error)
    gate.fail("it could not be updated any more")
    return NoUpdates(trial.version(gate.slots), leaving=gate.failed)


def _opened(settings: AgentSettings, folder: Path, stopping: Stopping, *, patient: bool = True) -> State | None:
    """Return the state, with this start counted; a disk that refuses is waited for, and named once a minute.

    Unless `patient`, it raises StoreError: a version on trial may be what is wrong.
    """
    while not stopping.is_set():
        try:
            state = State(folder, settings.max_spool_bytes)
            state.begin()
        except StoreError as error:
            if not patient:
                raise
            log.error("%s; trying again in %g s", error, REST)
            stopping.wait(REST)
        else:
            return state
    return None


def _import(settings: AgentSettings, folder: Path, file: str) -> None:
    from fedfleet.edge.collect import opened
    from fedfleet.wire import examples

    scheme = "csv" if file.partition("?")[0].lower().endswith(".csv") else "npz"
    found = examples.read(file if file.startswith(("npz:", "csv:")) else f"{scheme}:{file}")
    examples.check(found)
    state = State(folder)
    store = opened(settings, state.examples)
    store.append(found)
    print(f"{len(found.x)} examples imported; {settings.device} holds {len(store)} now")


if __name__ == "__main__":
    main()
