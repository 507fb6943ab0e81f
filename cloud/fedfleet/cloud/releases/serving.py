"""The published release on the broker: its metadata and files as blobs, and the message that names it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fedfleet.cloud.blobs import Blobs, sweep
from fedfleet.cloud.outbox import Outbox
from fedfleet.cloud.releases.published import listed, metadata, published, roots, target
from fedfleet.wire import files
from fedfleet.wire.bus import Bus
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, encode
from fedfleet.wire.release import Release
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.aggregator")
EVERY = 1.0  # seconds between two looks at what is published


class Serving:
    """Hands a repository's published release out, whatever becomes of it meanwhile: drive it by `step`."""

    def __init__(self, repo: Path, bus: Bus, topics: Topics, clock: Callable[[], float]) -> None:
        """Begin with what an earlier one has put on the broker. Raises StoreError."""
        self._repo = repo
        self._topics = topics
        self._clock = clock
        try:
            (repo / "blobs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{repo / 'blobs'} cannot be made: {error.strerror}") from None
        self._blobs = Blobs(repo / "blobs")
        self._outbox = Outbox(bus, topics, self._blobs, clock)
        self._seen: tuple[bytes, bytes, int] | None = None
        self._looked = -EVERY
        self._there = [
            Blob(path.name, path.stat().st_size) for path in (repo / "blobs").iterdir() if path.stat().st_size
        ]

    @property
    def idle(self) -> bool:
        """Whether everything has been handed to the link."""
        return self._outbox.idle

    def want(self, names: tuple[str, ...]) -> None:
        """Retain again what a device waits for in vain."""
        self._outbox.repeat(names)

    def step(self) -> None:
        """Look whether something else is published, and hand the link what it takes; trouble holds nothing up."""
        try:
            if self._clock() - self._looked >= EVERY:
                self._looked = self._clock()
                self._look()
            self._outbox.step()
        except StoreError as error:
            log.warning("releases: %s", error)

    def _look(self) -> None:
        what, when = (_content(self._repo / name) for name in ("published.json", "metadata/timestamp.json"))
        seen = (what, when, len(roots(self._repo)))  # new keys of root alone need no new timestamp
        if seen == self._seen or not what:
            return
        self._seen = seen
        message, needed = self._release()
        for blob in needed:
            self._outbox.put(blob)
        self._outbox.say(self._topics.release, encode(message))
        for blob in self._there:
            if blob not in needed:
                self._outbox.drop(blob)
        self._there = needed
        sweep(self._repo / "blobs", {blob.digest for blob in needed})
        log.info("release %s is handed out", message.version)

    def _release(self) -> tuple[Release, list[Blob]]:
        """Return what is said of the published release, and all blobs that it takes. Raises StoreError."""
        what = published(self._repo)
        assert what is not None
        chain = [json.loads(path.read_bytes()) for path in roots(self._repo)[1:]]
        above = [self._blobs.put(json.dumps(chain).encode())] if chain else []
        signed = [self._shelve(path) for path in metadata(self._repo).values()]
        releases = [each for each in listed(self._repo) if each.version == what.version]
        made = [self._shelve(target(self._repo, each, name)) for each in releases for name in each.files]
        message = Release(what.version, signed[0], above[0] if above else None, what.groups, what.share)
        return message, list(dict.fromkeys((*above, *signed, *made)))

    def _shelve(self, path: Path) -> Blob:
        """Have a file of the repository among the blobs, without a copy where that is possible."""
        try:
            blob = Blob(files.digest(path), path.stat().st_size)
            there = self._blobs.folder / blob.digest
            if not there.exists():
                try:
                    os.link(path, there)
                except OSError:
                    shutil.copyfile(path, there)
        except OSError as error:
            raise StoreError(f"{path} cannot be handed out: {error.strerror}") from None
        return blob


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
