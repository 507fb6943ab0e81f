"""All checks of a device, in their order, each with what must be well before it."""

from __future__ import annotations

from pathlib import Path

from fedfleet.edge.doctor import broker, enrolment, folders, software
from fedfleet.edge.doctor.device import Device
from fedfleet.edge.guards import ROOT
from fedfleet.edge.settings import load_agent
from fedfleet.wire.doctor import accepts, credentials, kept, network
from fedfleet.wire.doctor.checkup import Cause, Check, Finding, examine, failed, fine, nothing_more
from fedfleet.wire.doctor.talk import STAY
from fedfleet.wire.errors import SettingsError

WRONG = Cause(
    "settings-wrong", "the settings cannot be used", "correct {file}; edge/agent.example.toml has all of them"
)
CHECKS: tuple[Check[Device], ...] = (
    Check("state", (), folders.state, kept.STATE),
    Check("disk", ("state",), folders.disk, folders.DISK),
    Check("agent", ("state",), folders.running, ()),
    Check("unit", (), software.unit, software.UNIT),
    Check("runtime", (), software.runtime, software.RUNTIME),
    Check("examples", ("state",), folders.examples, folders.EXAMPLES),
    Check("clock", (), lambda device: credentials.clock(device.owner), credentials.CLOCK),
    Check("claim", ("state", "clock"), enrolment.claim, enrolment.CLAIM),
    Check("authority", ("claim",), lambda device: credentials.authority(device.owner), (credentials.CA_MISSING,)),
    Check("certificate", ("clock", "claim", "authority"), enrolment.certificate, credentials.OWN),
    Check("name", (), broker.name, network.NAME),
    Check("port", ("name",), broker.port, network.PORT),
    Check("tls", ("port", "clock", "authority", "certificate"), broker.tls, network.TLS),
    Check("mqtt", ("tls", "agent"), broker.mqtt, broker.MQTT),
    Check("acl", ("mqtt",), broker.acl, accepts.ACL),
    Check("packets", ("mqtt",), broker.packets, accepts.PACKETS),
    Check("task", ("acl",), broker.task, broker.TASK),
)
SETTINGS = Check[Path]("settings", (), lambda file: _loaded(file, ROOT, STAY)[0], (WRONG,))


def look(file: Path, root: Path = ROOT, stay: float = STAY) -> dict[str, Finding]:
    """Return what all checks of the device with the settings `file` come to."""
    found, device = _loaded(file, root, stay)
    before = {SETTINGS.name: found}
    return nothing_more(CHECKS, before) if device is None else examine(CHECKS, device, before)


def _loaded(file: Path, root: Path, stay: float) -> tuple[Finding, Device | None]:
    try:
        settings, state = load_agent(file)
    except SettingsError as error:
        return failed(WRONG, str(error), file=file), None
    seen = f"device {settings.device} of fleet {settings.fleet}"
    return fine(seen), Device(settings, file, state, root, stay)
