"""What an operator sees of a running aggregator: notes beside its journal, numbers for Prometheus and TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fedfleet.cloud import exposition
from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.fleet import newest
from fedfleet.cloud.meters import Meters
from fedfleet.cloud.notes import Notes, Standing, standing
from fedfleet.cloud.scrape import Scrape
from fedfleet.cloud.settings import AggregatorSettings
from fedfleet.wire.errors import StoreError

log = logging.getLogger("fedfleet.aggregator")
EVERY = 1.0  # seconds between two looks, whatever happens in between


class Operations:
    """Tell it of every round that ends, and let it `look` at the aggregator between its steps."""

    def __init__(
        self, settings: AggregatorSettings, base: Path, clock: Callable[[], float], link: Callable[[], str] = str
    ) -> None:
        """Open what `settings`, whose folder is `base`, ask for; `link` says why the broker is out of reach, if it is.

        Raises SettingsError, StoreError.
        """
        self._what = Standing(settings.fleet, settings.strategy, settings.rounds.total)
        self._clock = clock
        self._link = link
        self._looked = -EVERY
        self._meters = Meters(newest(base / settings.state))
        self._page = ""
        self._listeners: list[Callable[[RoundRecord], None]] = [self._meters.round]
        with ExitStack() as stack:
            self._notes = Notes(base / settings.state)
            stack.callback(self._notes.close)
            self._listeners.append(self._notes.round)
            if settings.metrics.tensorboard:
                from fedfleet.cloud.events import Events  # here: it brings all of TensorFlow

                events = Events(base / settings.metrics.tensorboard)
                stack.callback(events.close)
                self._listeners.append(events.round)
            if settings.metrics.port:
                scrape = Scrape(settings.metrics.host, settings.metrics.port, self.page)
                stack.callback(scrape.close)
            self._open = stack.pop_all()

    def round(self, record: RoundRecord) -> None:
        """Take a round that is over; what cannot be written of it is named, and holds nothing up."""
        for listener in self._listeners:
            try:
                listener(record)
            except StoreError as error:
                log.warning("%s", error, extra={"round": record.round})

    def look(self, aggregator: Aggregator, *, now: bool = False) -> None:
        """Note what `aggregator` is doing, unless that was done a moment ago; with `now` all the same."""
        if not now and self._clock() - self._looked < EVERY:
            return
        self._looked = self._clock()
        seen = standing(aggregator, replace(self._what, link=self._link()))
        self._notes.devices(aggregator.presence, seen)
        self._page = exposition.text(self._meters.metrics(seen, aggregator.presence.statuses.values()))

    def page(self) -> str:
        """Return the page for Prometheus, as of the last look; for any thread."""
        return self._page + exposition.text(exposition.process())

    def close(self) -> None:
        """Close all that was opened."""
        self._open.close()
