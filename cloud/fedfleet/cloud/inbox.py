"""Updates as they come: offered, admitted in waves, asked for part by part, put together, checked.

However large the cohort, no more parts are on their way than the broker holds with ease, and no more updates are open
than there is room for; the others wait with their offer. Who falls silent makes room and offers again later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedfleet.wire import frames
from fedfleet.wire.chunks import Assembly, Offer, Part, join
from fedfleet.wire.codecs import codec
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import MAX_ROUND, Receipt, Update, seen

ROOM = 64 * 1024 * 1024  # bytes of updates that are open at a time; one always is
AHEAD = 32  # parts asked for and not here yet, of all devices together
EACH = 8  # of one device
SILENCE = 30.0  # seconds after which a device that was asked is not waited for


@dataclass
class Open:
    """An update that is being asked for."""

    offer: Offer
    assembly: Assembly
    heard: float
    asked: set[int] = field(default_factory=set)


class Inbox:
    """Offers and parts in; whole updates out, and what to ask which device for."""

    def __init__(self, codec_name: str, parameters: int, clock: Callable[[], float]) -> None:
        """Expect updates of `parameters` weights, encoded as the plan says."""
        self._codec = codec_name
        self._size = codec(codec_name).size(parameters)
        self._clock = clock
        self._waiting: dict[str, Offer] = {}
        self._open: dict[str, Open] = {}

    def offer(self, device: str, offered: Offer) -> None:
        """Take note of an update; raises FrameError for one that cannot be of this task: wrong size, wrong codec."""
        self.drop(device, but=offered)
        self._check(offered)
        if device in self._open:
            self._open[device].asked.clear()  # what it was asked for has not reached it, or its answer not us
            self._open[device].heard = self._clock()
        else:
            self._waiting[device] = offered

    def part(self, device: str, part: Part, body: bytes) -> Update | None:
        """Take one part; returns the update that it completes. Raises FrameError for bytes that are not of it."""
        found = self._open.get(device)
        if found is None or found.offer.round != part.round or found.offer.blob.digest != part.digest:
            return None  # of an offer that is forgotten: the device will offer it again
        found.assembly.add(part.index, body)
        found.asked.discard(part.index)
        found.heard = self._clock()
        if found.assembly.missing():
            return None
        del self._open[device]
        return join(device, found.offer, found.assembly.finish())

    def requests(self) -> list[tuple[str, Receipt]]:
        """Return what is to be asked for now, and of whom."""
        self._forget_silent()
        self._admit()
        found = []
        free = AHEAD - sum(len(one.asked) for one in self._open.values())
        for device, one in self._open.items():
            if free <= 0:
                break
            if len(one.asked) > EACH // 2:
                continue
            ahead = [index for index in one.assembly.missing() if index not in one.asked]
            wanted = tuple(ahead[: min(EACH - len(one.asked), free)])
            if wanted:
                one.asked.update(wanted)
                free -= len(wanted)
                found.append((device, Receipt(one.offer.round, "missing", missing=wanted)))
        return found

    def drop(self, device: str, but: Offer | None = None) -> None:
        """Forget what a device has offered, unless it is `but`."""
        if self._waiting.get(device) != but:
            self._waiting.pop(device, None)
        if device in self._open and self._open[device].offer != but:
            del self._open[device]

    def refusal(self, device: str, frame: bytes, reason: str) -> Receipt | None:
        """Return the receipt for a frame that was refused; None where it does not even name a round."""
        self.drop(device)
        try:
            round_ = frames.unpack(frame)[0].get("round")
        except FrameError:
            return None
        if not isinstance(round_, int) or isinstance(round_, bool) or not 1 <= round_ <= MAX_ROUND:
            return None
        return Receipt(round_, "refused", reason=seen(reason))

    def _admit(self) -> None:
        held = sum(one.offer.blob.size for one in self._open.values())
        for device, offered in list(self._waiting.items()):
            if self._open and (held + offered.blob.size > ROOM or len(self._open) >= AHEAD):
                return
            held += offered.blob.size
            del self._waiting[device]
            self._open[device] = Open(offered, Assembly(offered.blob), self._clock())

    def _forget_silent(self) -> None:
        """Ask those again who have not answered; where others wait, these go first."""
        now = self._clock()
        for device, one in list(self._open.items()):
            if one.asked and now - one.heard > SILENCE:
                one.asked.clear()
                one.heard = now
                if self._waiting:
                    del self._open[device]

    def _check(self, offered: Offer) -> None:
        if offered.codec != self._codec:
            raise FrameError(f"update is encoded as {offered.codec[:32]!r}, the plan says {self._codec}")
        if offered.blob.size != self._size:
            raise FrameError(f"update has {offered.blob.size} bytes, the model's take {self._size}")
