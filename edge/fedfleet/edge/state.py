"""What a device remembers over a power cut: the last round it finished, how often it started, blobs and the spool.

state/
  memory.json          {"round": 12, "boot": 3}
  blobs/               the program and weights of the newest task (see downloads.py)
  spool/               the newest update, until its receipt or a newer task (see spool.py)
  examples/            the example store
  local/               the weights of layers that never leave the device (see private.py)
  residual/            what codecs lost of the last updates, for the next one (see residual.py)
  control/             the device's own control variate, where the strategy is SCAFFOLD (see controls.py)
  trainer.log          what the training process wrote last
  agent.lock           held by the agent that runs; its process is in it (see running.py)
  link.json            how its link to the broker is
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fedfleet.edge.downloads import here
from fedfleet.edge.spool import Spool
from fedfleet.wire import files
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob
from fedfleet.wire.record import Mismatch, build, plain

SPOOL = 512 * 1024 * 1024


@dataclass(frozen=True)
class Memory:
    """The device's memory of rounds is one integer; `boot` tells its lives apart."""

    round: int = 0
    boot: int = 0


class State:
    """The agent's folder. Every write is whole old or whole new."""

    def __init__(self, folder: Path, max_spool_bytes: int = SPOOL) -> None:
        """Open `folder`, made where it is missing. Raises StoreError."""
        self.folder = folder
        self.blobs = folder / "blobs"
        self.spool = Spool(folder / "spool", max_spool_bytes)
        try:
            for name in ("blobs", "spool", "examples"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be made: {error.strerror}; give the agent a folder it may write"
            ) from None
        self._memory = self._recall()

    def begin(self) -> None:
        """Count this start of the agent."""
        self._remember(Memory(self._memory.round, self._memory.boot + 1))

    @property
    def round(self) -> int:
        """The newest round that is finished here: trained and spooled, declined, or not called."""
        return self._memory.round

    @property
    def boot(self) -> int:
        """How often this device has started."""
        return self._memory.boot

    @property
    def examples(self) -> Path:
        """The example store's folder."""
        return self.folder / "examples"

    @property
    def log(self) -> Path:
        """Where the training process writes."""
        return self.folder / "trainer.log"

    def finish(self, round_: int) -> None:
        """Remember that `round_` needs no more work."""
        self._remember(Memory(round_, self._memory.boot))

    def blob(self, blob: Blob) -> Path | None:
        """Return the path of `blob` if it is here whole."""
        return here(self.blobs, blob)

    def verify(self, blob: Blob) -> bool:
        """Whether the blob on disk still is what its name says; one that is not is removed, to be fetched anew."""
        path = self.blob(blob)
        good = path is not None and files.digest(path) == blob.digest
        if path is not None and not good:
            files.remove(path)
        return good

    def forget_blobs(self, but: Collection[str]) -> None:
        """Remove the blobs of superseded tasks, whole or in part; keep those with the digests `but`."""
        for path in self.blobs.iterdir():
            if path.name not in but:
                files.remove(path)

    def _recall(self) -> Memory:
        path = self.folder / "memory.json"
        if not path.exists():
            return Memory()
        try:
            return build(Memory, json.loads(path.read_bytes()), strict=False)
        except (ValueError, Mismatch) as error:
            raise StoreError(f"{path} is damaged ({error}); remove it, the device then starts as new") from None

    def _remember(self, memory: Memory) -> None:
        self._memory = memory  # known at once: where the disk refuses, the worst is that a start does the round again
        files.write(self.folder / "memory.json", json.dumps(plain(memory)).encode())
