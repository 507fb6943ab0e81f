"""The desk with all that it needs around it: authority, ledger, and a link of its own to the broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedfleet.cloud.identity import authority, folder, revocation
from fedfleet.cloud.identity.desk import Desk
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker


@contextmanager
def opened(pki: Path, broker: Broker) -> Iterator[Desk]:
    """Yield the desk of the fleet whose authority is in `pki`. Raises SettingsError, StoreError, BusDown."""
    fleet, signer = folder.read(pki).fleet, authority.of(pki, time.time())
    with ExitStack() as stack:
        ledger = Ledger(pki)
        stack.callback(ledger.close)
        bus = MqttBus(broker, f"{fleet}-enrol")
        stack.callback(bus.close)
        yield Desk(fleet, signer, ledger, bus, time.time, returned=lambda: _returned(pki, ledger))


def _returned(pki: Path, ledger: Ledger) -> None:
    """Let a device that was enrolled anew in again, as far as the broker's rules go."""
    revocation.deny(pki, ledger)
