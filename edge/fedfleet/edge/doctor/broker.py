"""What the device's broker makes of it. While the agent runs the link is its own, and its own word is taken."""

from __future__ import annotations

from fedfleet.edge.board import ability
from fedfleet.edge.doctor.device import NOT_YET, Device
from fedfleet.edge.running import noted
from fedfleet.wire.doctor import accepts, network
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine

AGENT_SAYS = Cause(
    "mqtt-agent", "the agent that runs has no link to its broker", "do what it says; or stop it, and ask again"
)
MQTT = (*accepts.MQTT, AGENT_SAYS)

LITTLE_MEMORY = Cause(
    "task-memory", "the board has less memory than the task asks for", "leave it out, or lower memory_mib"
)
TASK = (LITTLE_MEMORY,)


def name(device: Device) -> Finding:
    """Whether the broker's name has an address."""
    return network.name(device.broker)


def port(device: Device) -> Finding:
    """Whether somebody listens there."""
    return network.port(device.broker)


def tls(device: Device) -> Finding:
    """Whether that is the fleet's broker."""
    return network.handshake(device.broker, device.settings.device)


def mqtt(device: Device) -> Finding:
    """Whether the broker lets the device in, under its own name."""
    if device.agent:
        return _agents_word(device)
    if not device.enrolled:
        return beside(NOT_YET)
    broker, name = device.broker, device.settings.device
    return accepts.without_password(broker) or accepts.let_in(device.talk, broker, name)


def acl(device: Device) -> Finding:
    """Whether what the device says is delivered."""
    return _left_alone(device) or accepts.delivered(device.talk, device.say, device.settings.device)


def packets(device: Device) -> Finding:
    """Whether a chunk fits."""
    return _left_alone(device) or accepts.roomy(device.talk, device.topics, device.settings.device)


def task(device: Device) -> Finding:
    """Whether the board has what the newest task asks for."""
    if found := _left_alone(device):
        return found
    newest = device.task
    if newest is None:
        return beside("no task is retained there, or the access list hides it")
    able = ability(device.root, device.settings.all_tags)
    if able.memory_mib < newest.needs.memory_mib:
        return failed(LITTLE_MEMORY, f"{able.memory_mib} MiB, round {newest.round} asks for {newest.needs.memory_mib}")
    called = newest.needs.met(able)
    return fine(
        f"round {newest.round}{'' if called else f', which is not for this device: it asks for {newest.needs}'}"
    )


def _agents_word(device: Device) -> Finding:
    note = noted(device.state)
    if note is None or (not note.reason and not note.connections):
        return beside(f"the agent runs, process {device.agent}, and has not said how its link is")
    if note.reason:
        return failed(AGENT_SAYS, f"the agent says: {note.reason}")
    return fine(f"the agent says that its link is up, made {note.connections} times")


def _left_alone(device: Device) -> Finding | None:
    """Why the broker is not asked, if it is not."""
    if device.agent:
        return beside("the agent runs, and would be thrown out; stop it to have this looked at")
    return None if device.enrolled else beside(NOT_YET)
