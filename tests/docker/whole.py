"""firmware_sim/compose.yaml as it stands: two devices enrol by their claims, and the aggregator's container counts both."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from fedfleet.sim.datasets import load
from fedfleet.sim.docker.client import ROOT, docker
from fedfleet.sim.docker.stack import HOME, archive
from fedfleet.sim.split import split
from fedfleet.wire.errors import SettingsError

PROJECT, DEVICES, ROUNDS = "fedfleet-whole", ("d0", "d1"), "60"
COMPOSE = ("compose", "--project-name", PROJECT, "--file", str(ROOT / "firmware_sim" / "compose.yaml"))
PATIENCE = 300.0


def federation(folder: Path) -> tuple[str, str]:
    """Start it, give the devices examples, and revoke one; all is taken down.

    Returns the aggregator's line on the last round, and what ails the device that was revoked.
    """
    os.environ.update(DEVICES=" ".join(DEVICES), ROUNDS=ROUNDS)
    folder.mkdir()
    try:
        docker(*COMPOSE, "up", "--no-build", "--detach", "broker", *DEVICES, seconds=PATIENCE)
        for device, part in zip(DEVICES, split("iid", load("digits", 0), len(DEVICES), 0), strict=True):
            np.savez(folder / "examples.npz", x=part.x, y=part.y)
            given = archive({}, {"examples.npz": folder / "examples.npz"})
            docker("cp", "-", f"{container(device)}:{HOME}", given=given)
            agent = ("python3", "-m", "fedfleet.edge", "--settings", "agent.toml")
            docker("exec", container(device), *agent, "import", "examples.npz")
        docker(*COMPOSE, "up", "--no-build", "--detach", "aggregator", seconds=PATIENCE)
        until_well("aggregator", "fedfleet.cloud.health", "settings.toml")
        for device in DEVICES:
            until_well(device, "fedfleet.edge.health", "--settings", "agent.toml")
        if docker("wait", container("aggregator"), seconds=PATIENCE) != "0":
            return docker("logs", "--tail", "1", container("aggregator")), ""
        lines = docker("logs", container("aggregator")).splitlines()
        last = next(line for line in lines if line.startswith(f"round {ROUNDS} closed"))
        return last, revoked(DEVICES[1])
    finally:
        docker(*COMPOSE, "down", "--volumes", "--timeout", "5")


def container(service: str) -> str:
    """Return the container of a service."""
    return docker(*COMPOSE, "ps", "--all", "--quiet", service)


def revoked(device: str) -> str:
    """Shut `device` out, as docs/docker.md says, and return what ails it then; empty where it still is well."""
    once = (*COMPOSE, "run", "--rm", "--no-deps", "aggregator")  # the aggregator itself is done
    docker(*once, "pki", "revoke", "pki", device)
    docker(*COMPOSE, "kill", "--signal", "HUP", "broker")
    docker(*once, "broker", "kick", "pki", device)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            docker("exec", container(device), "python3", "-m", "fedfleet.edge.health", "--settings", "agent.toml")
        except SettingsError as error:
            return str(error).rpartition(": ")[2]
    return ""


def until_well(service: str, *check: str) -> None:
    """Wait until the check of a service's health says that it is well; raises SettingsError with what ails it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            docker("exec", container(service), "python3", "-m", *check)
        except SettingsError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return
