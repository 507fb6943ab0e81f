"""The state folder: can the agent keep its state there, does one run, and are there examples."""

from __future__ import annotations

from fedfleet.edge.doctor.device import Device
from fedfleet.wire.doctor import kept
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine

LEAST = 64.0  # MiB on the disk: two segments of examples, a model and an update of a small board
SEGMENTS = "[0-9]*.segment"  # of data.py, which would load numpy for it

LITTLE = Cause("disk-full", "less than 64 MiB are free", "free room on the disk of {path}")
GUARDED = Cause(
    "disk-guard", "less is free than min_disk_mib asks for, so nothing is trained", "free room, or lower it"
)
DISK = (LITTLE, GUARDED)

NO_EXAMPLES = Cause(
    "examples-none", "there is nothing to train on", "fedfleet-agent --settings {file} import data.npz, or a [source]"
)
UNCOLLECTED = Cause(
    "examples-uncollected",
    "its sources have brought nothing yet",
    "start the agent; its log says what a source waits for",
)
EXAMPLES = (NO_EXAMPLES, UNCOLLECTED)


def state(device: Device) -> Finding:
    """Whether the agent can keep its state."""
    return kept.state(device.state)


def disk(device: Device) -> Finding:
    """Whether there is room."""
    free = kept.free(device.state)
    if free < LEAST:
        return failed(LITTLE, f"{free:.0f} MiB are free", path=device.state)
    if free < device.settings.guards.min_disk_mib:
        return failed(
            GUARDED, f"{free:.0f} MiB are free, guards.min_disk_mib is {device.settings.guards.min_disk_mib:g}"
        )
    return fine(f"{free:.0f} MiB are free")


def examples(device: Device) -> Finding:
    """Whether there is anything to train on."""
    folder = device.state / "examples"
    sizes = [path.stat().st_size for path in folder.glob(SEGMENTS)] if folder.is_dir() else []
    if sizes:
        return fine(f"{len(sizes)} segments of examples, {sum(sizes) / 2**20:.1f} MiB")
    cause = UNCOLLECTED if device.settings.collects else NO_EXAMPLES
    return failed(cause, f"no examples in {folder}", file=device.file)


def running(device: Device) -> Finding:
    """Whether an agent runs: no fault if not, but then its unit should say so."""
    return fine(f"runs, process {device.agent}") if device.agent else beside("no agent runs on this state")
