"""What an aggregator needs on its own machine: the model, its journal, room, a port for its numbers."""

from __future__ import annotations

import socket

from fedfleet.cloud import fleet, schema
from fedfleet.cloud.doctor.subject import Cloud
from fedfleet.models.compiled import load
from fedfleet.wire.doctor import kept
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine
from fedfleet.wire.errors import StoreError

LEAST = 512.0  # MiB: some rounds of updates, and models
MODEL = Cause("model-unusable", "there is no compiled model where the settings say", "fedfleet compile, into {path}")
JOURNAL = Cause(
    "journal-unusable", "the journal in the state folder cannot be read", "fedfleet restore a backup, or see its words"
)
LITTLE = Cause("disk-full", "less than 512 MiB are free", "free room on the disk of {path}")
PORT_TAKEN = Cause(
    "metrics-port", "the port for metrics cannot be had", "choose another metrics.port, or end what has {port}"
)


def model(cloud: Cloud) -> Finding:
    """Whether the model can be handed to devices."""
    path = cloud.file.resolve().parent / cloud.settings.model
    try:
        found = load(path)
    except StoreError as error:
        return failed(MODEL, str(error), path=path)
    return fine(f"{path}, program {found.digest[:12]}")


def state(cloud: Cloud) -> Finding:
    """Whether the aggregator can keep its state."""
    return kept.state(cloud.state)


def disk(cloud: Cloud) -> Finding:
    """Whether there is room."""
    free = kept.free(cloud.state)
    return (
        fine(f"{free:.0f} MiB are free")
        if free >= LEAST
        else failed(LITTLE, f"{free:.0f} MiB are free", path=cloud.state)
    )


def journal(cloud: Cloud) -> Finding:
    """Whether the journal can be read, and what the aggregator that holds it is doing."""
    if not (cloud.state / schema.DATABASE).exists():
        return beside("no aggregator has run here yet")
    try:
        found = fleet.fleet(cloud.state)
    except StoreError as error:
        return failed(JOURNAL, str(error))
    return fine(f"aggregator {found.state}: {found.why}")


def metrics(cloud: Cloud) -> Finding:
    """Whether Prometheus can ask; a running aggregator has the port itself."""
    where = cloud.settings.metrics
    if not where.port:
        return beside("metrics.port is not set")
    if cloud.runs:
        return beside("the aggregator runs, and has the port")
    try:
        with socket.create_server((where.host, where.port)):
            return fine(f"{where.host}:{where.port} is free")
    except OSError as error:
        return failed(PORT_TAKEN, f"{where.host}:{where.port}: {error.strerror}", port=where.port)
