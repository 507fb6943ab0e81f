"""What an aggregator asks the ledger: who is shut out. And the desk beside it, where the authority's key is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fedfleet.cloud.identity import folder
from fedfleet.cloud.identity.ledger import Ledger
from fedfleet.cloud.settings import AggregatorSettings
from fedfleet.wire.enrolment import reserved
from fedfleet.wire.errors import SettingsError, StoreError

log = logging.getLogger("fedfleet.aggregator")
LOOK = 1.0  # seconds between two looks at the ledger


@dataclass(frozen=True)
class Denied:
    """The names that no device of `fleet` may have, and those of the devices that were revoked."""

    fleet: str
    revoked: frozenset[str]

    def __contains__(self, device: object) -> bool:
        """Whether `device` is one of them."""
        return device in self.revoked or reserved(self.fleet, str(device))


class Watch:
    """Who is denied, looked up once a second at most; the same object as before while nothing has changed."""

    def __init__(self, fleet: str, ledger: Ledger, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds. Raises StoreError where the ledger cannot be read now."""
        self._ledger = ledger
        self._clock = clock
        self._looked = clock()
        self._found = Denied(fleet, frozenset(ledger.denied()))

    def __call__(self) -> Denied:
        """Return them; as they were when last seen, where the ledger cannot be read."""
        if self._clock() - self._looked >= LOOK:
            self._looked = self._clock()
            try:
                revoked = self._ledger.denied()
            except StoreError as error:
                log.error("%s; those that were revoked before stay shut out", error)
                return self._found
            if revoked != self._found.revoked:
                self._found = replace(self._found, revoked=frozenset(revoked))
        return self._found


class Doors(NamedTuple):
    """Who is denied, and what lets others in when it is called again and again."""

    denied: Callable[[], Container[str]]
    desk: Callable[[], None]


@contextmanager
def doors(base: Path, settings: AggregatorSettings) -> Iterator[Doors]:
    """Yield what the settings ask for: nobody is denied and no desk is open where they name no authority.

    The desk has a link of its own, with its own certificate: a broker's rules then let it say nothing but answers, and
    what devices ask does not wait among the updates. Raises SettingsError, StoreError, BusDown.
    """
    if not settings.identity.pki:
        yield Doors(tuple, lambda: None)
        return
    pki = base / settings.identity.pki
    if (named := folder.read(pki).fleet) != settings.fleet:
        raise SettingsError(f"identity.pki: {pki} is the authority of fleet {named}, not of {settings.fleet}")
    with ExitStack() as stack:
        ledger = Ledger(pki)
        stack.callback(ledger.close)
        watch, desk = Watch(settings.fleet, ledger, time.monotonic), _nothing
        if (pki / folder.CA_KEY).is_file():
            desk = stack.enter_context(_desk(pki, settings))
        yield Doors(watch, desk)


@contextmanager
def _desk(pki: Path, settings: AggregatorSettings) -> Iterator[Callable[[], None]]:
    from fedfleet.cloud.identity import desks  # here and not at the top: it needs cryptography

    if not settings.broker.tls:
        raise SettingsError("identity.pki needs broker.tls = true: certificates say who a device is")
    with desks.opened(pki, folder.link(pki, folder.read(pki), "enrol", settings.broker)) as found:

        def step() -> None:
            try:
                found.step(0)
            except StoreError as error:  # devices ask again; rounds go on meanwhile
                log.error("the enrolment desk: %s", error)

        yield step


def _nothing() -> None:
    return None
