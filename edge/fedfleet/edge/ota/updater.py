"""Updates over the air, a step at a time beside the agent's own work: fetch, verify, unpack, and start anew.

A release that is not signed as it must be, not for this board, or that was tried and failed is refused, and said so;
the agent goes on training. Nothing is fetched that the signed metadata does not name, beyond a timestamp and the roots.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from fedfleet.edge.downloads import Fetcher, here
from fedfleet.edge.ota.choice import Board, Chosen, board, bundle, choose, known
from fedfleet.edge.ota.metadata import BOUNDS, Targets
from fedfleet.edge.ota.slots import Slots
from fedfleet.edge.ota.trial import Gate
from fedfleet.edge.ota.trust import MAX_ROOTS, Trust, wall
from fedfleet.edge.ota.wheels import room
from fedfleet.wire import files
from fedfleet.wire.bus import Bus
from fedfleet.wire.errors import FedfleetError, FrameError, ReleaseError, StoreError, TooLarge
from fedfleet.wire.messages import Blob, decode
from fedfleet.wire.release import Release, outcome, said
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.agent")
AGAIN = 3600.0  # seconds after which what was refused is looked at again: a clock may have been set, a disk cleared


class Updater:
    """The updates of one device."""

    def __init__(
        self,
        device: str,
        topics: Topics,
        bus: Bus,
        slots: Slots,
        gate: Gate,
        folder: Path,
        anchor: bytes,
        tags: tuple[str, ...],
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime] = wall,
    ) -> None:
        """`folder` is the updater's own; `anchor` the root metadata that the owner trusts. Raises StoreError."""
        self.version = slots.own
        self.leaving = False
        self._device, self._topics, self._tags = device, topics, tags
        self._slots, self._gate = slots, gate
        self._folder, self._anchor = folder, anchor
        self._clock, self._wall = clock, wall_clock
        self._release: Release | None = None
        self._way: Iterator[Blob | None] | None = None
        self._wanted: Blob | None = None
        self._ready: Chosen | None = None
        self._due = 0.0
        try:
            (folder / "blobs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}") from None
        self._fetcher = Fetcher(device, topics, bus, folder / "blobs", clock)
        self.said = said(slots.own, "trial", "it has connected") if gate.on else ""
        gate.got("it connected")
        if gate.on:
            self._forget()
        bus.subscribe(topics.release)

    def take(self, topic: str, payload: bytes) -> None:
        """Take a release, or a piece of one."""
        try:
            if topic != self._topics.release:
                self._fetcher.take(topic, payload)
            else:
                self._follow(decode(Release, payload) if payload else None)
        except (FrameError, StoreError, TooLarge) as error:
            log.warning("dropped a message on %s: %s", topic, error)

    def step(self, work: str) -> None:
        """Do the next piece of work."""
        self._gate.look(waiting=work in ("idle", "held"))
        self.leaving = self.leaving or self._gate.failed
        if work == "held" or self.leaving or self._clock() < self._due:
            return
        try:
            if self._way is not None:
                self._go_on(self._way)
            elif self._ready is not None:
                self._install(self._ready, work)
        except (ReleaseError, FrameError) as error:
            self._conclude("refused", error)
        except (StoreError, TooLarge) as error:
            self._conclude("waiting", error)

    def due(self) -> float:
        """When to step though nothing arrives, by the clock."""
        return max(self._due, self._fetcher.due())

    def finished(self, round_: int) -> None:
        """Let a version that is on trial pass it: it has finished a round's work."""
        if self._gate.on and self._gate.passed():
            self.said = said(self.version, "good", f"it passed its trial in round {round_}")
            if self._release is not None and self._release.version != self.version:
                newer, self._release = self._release, None
                self._follow(newer)

    def declined(self, why: str) -> None:
        """Fail the trial of a version that cannot do a round's work."""
        self._gate.fail(why)

    def _follow(self, release: Release | None) -> None:
        """Turn to another release, unless it is the one that is known; a link that was made anew brings that again."""
        if release == self._release:
            return
        self._release, self._way, self._ready, self._wanted = release, None, None, None
        self._fetcher.cancel()
        if release is None or not release.calls(self._device, self._tags):
            if outcome(self.said)[1] in ("fetching", "waiting"):
                self.said = ""
        else:
            self._due, self._way = 0.0, self._path(release)
            if not self._gate.on:
                failed = self._slots.failed
                back = failed is not None and failed.slot == release.version and release.version != self.version
                self.said = self._back() if back else said(release.version, "fetching")

    def _go_on(self, way: Iterator[Blob | None]) -> None:
        while self._wanted is None or self._fetcher.fetch(self._wanted):
            try:
                self._wanted = next(way)
            except StopIteration:
                self._way = None
                return
            if self._wanted is None:
                return

    def _path(self, release: Release) -> Iterator[Blob | None]:
        """What is to be fetched for a release, one after the other; None where a step has taken its time."""
        trust = Trust(self._folder / "trust.json", self._anchor, self._wall)
        if release.roots is not None:
            yield _bounded("roots", release.roots, MAX_ROOTS)
            trust.roots(self._read(release.roots))
        yield _bounded("timestamp", release.timestamp, BOUNDS["timestamp"])
        yield (snapshot := trust.timestamp(self._read(release.timestamp)))
        yield (targets := trust.snapshot(self._read(snapshot)))
        listed = trust.targets(self._read(targets))
        chosen = choose(listed, release.version, here_ := board())
        if not self._is_newer(listed, chosen, here_):
            return
        yield chosen.release
        data = self._read(chosen.release)
        found = bundle(data, chosen)
        if self._slots.release(found.version) != data:
            lacking = [wheel.blob for wheel in found.wheels if not self._slots.has(wheel)]
            room(self._folder, sum(blob.size for blob in lacking if not here(self._folder / "blobs", blob)))
            yield from lacking
            log.info("version %s has come and is signed; unpacking it", found.version)
            for _ in self._slots.add(found, data, self._folder / "blobs"):
                yield None
        self._ready = chosen

    def _is_newer(self, listed: Targets, chosen: Chosen, here_: Board) -> bool:
        """Whether `chosen` is to be installed; else says why not."""
        own, failed = Blob.of(self._slots.release(self.version) or b"?"), self._slots.failed
        listed_own = known(listed, self.version, here_)
        serial = max(self._slots.serial, listed_own[1] if listed_own and listed_own[0] == own else 0)
        if self._gate.on:
            return False
        if chosen.kind.version == self.version and chosen.release == own:
            self._conclude("good", "")
        elif failed is not None and chosen.kind.serial <= failed.serial and chosen.kind.version == failed.slot:
            self._conclude_as(self._back())
        elif chosen.kind.serial <= serial:
            raise ReleaseError(f"it is older than {self.version}; add it to the repository again to go back to it")
        else:
            return True
        return False

    def _install(self, chosen: Chosen, work: str) -> None:
        if work == "training":
            self.said = said(chosen.kind.version, "waiting", "a round is being trained")
            return
        self._slots.switch(chosen.kind.version, chosen.kind.serial)
        self._forget()
        log.info("version %s takes over from %s, on trial", chosen.kind.version, self.version)
        self.leaving = True

    def _conclude(self, word: str, why: FedfleetError | str) -> None:
        """Say what became of the release; what may be mended meanwhile is looked at again later."""
        assert self._release is not None
        if why:
            log.warning("release %s: %s: %s", self._release.version, word, why)
        self._conclude_as(said(self._release.version, word, str(why)), keep=word == "waiting")
        if why:
            self._due, self._way = self._clock() + AGAIN, self._path(self._release)

    def _conclude_as(self, text: str, *, keep: bool = False) -> None:
        """Be done with the release for now; what was fetched of it may be worth to `keep`."""
        if not self._gate.on:
            self.said = text
        self._way = self._ready = self._wanted = None
        self._fetcher.cancel()
        if not keep:
            self._forget()

    def _back(self) -> str:
        failed = self._slots.failed
        assert failed is not None
        return said(failed.slot, "back", f"to {self.version} after {failed.starts} starts: {failed.got}")

    def _read(self, blob: Blob) -> bytes:
        """Return the bytes of a blob that has been fetched, checked once more. Raises ReleaseError, StoreError."""
        path = here(self._folder / "blobs", blob)
        try:
            data = path.read_bytes() if path is not None else b""
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        if not data or Blob.of(data) != blob:
            files.remove(self._folder / "blobs" / blob.digest)
            raise ReleaseError(f"{blob.digest[:12]} has rotted on the disk")
        return data

    def _forget(self) -> None:
        """Remove what was fetched."""
        try:
            for path in (self._folder / "blobs").iterdir():
                files.remove(path)
        except (OSError, StoreError) as error:
            log.warning("%s", error)


def _bounded(what: str, blob: Blob, most: int) -> Blob:
    if blob.size > most:
        raise ReleaseError(f"the {what} would have {blob.size} bytes; at most {most} are taken")
    return blob
