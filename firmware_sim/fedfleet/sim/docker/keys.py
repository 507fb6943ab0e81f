"""Certificates for one run: an authority of its own, and what broker and devices get of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from fedfleet.cloud.broker import folder as broker_folder
from fedfleet.cloud.broker.layout import Layout
from fedfleet.cloud.identity import authority, folder, opening
from fedfleet.wire.settings import Broker

HERE = "127.0.0.1"
LIFE = timedelta(days=30)


class Keys(NamedTuple):
    """The authority's certificate, the broker's files, identity.pem of each device, how the aggregator is let in."""

    authority: str
    broker: Path
    devices: dict[str, str]
    cloud: Broker


def keys(place: Path, fleet: str, devices: Iterable[str], port: int, at: str) -> Keys:
    """Make an authority for `fleet` in the folder `place`; the broker listens at `port` and has its files in `at`."""
    now, pki = time.time(), place / "pki"
    known = folder.Fleet(fleet, (HERE, "broker"), port)
    opening.make(pki, known, now)
    broker_folder.write(pki, place / "broker", Layout(fleet, at, port))
    signer = authority.of(pki, now)

    def identity(device: str) -> str:
        key = authority.new_key()
        signed = signer.client(device, key.public_key(), now, LIFE, o=fleet)
        return (signed.pem + signer.pem + authority.key_pem(key)).decode()

    identities = {device: identity(device) for device in devices}
    return Keys(signer.pem.decode(), place / "broker", identities, folder.link(pki, known, "cloud"))
