"""One round as a pure state machine: events in, answers out, no I/O and no clock, so that its rules are plain to test.

Rules. A device takes part if it is present and the task calls it. An update counts once, and only for this round; or,
where the task allows for some staleness, in the first round that it comes to, for less the older it is. The round
closes when nobody is left to wait for; or once it has the updates that were wanted, after some grace for those on
their way; or at its deadline if a quorum has reported. Below quorum at the deadline it is abandoned. Why it waits can
always be asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from fedfleet.cloud.sums import Aggregate, Decoding, Told, discounted
from fedfleet.wire.codecs import grow
from fedfleet.wire.errors import FedfleetError, StoreError
from fedfleet.wire.messages import Receipt, Task, Update, seen

NAMED = 8


class Verdict(NamedTuple):
    """Whether the round is `open`, `closed` or `abandoned`, and why."""

    state: str
    reason: str


class Counted(NamedTuple):
    """What stays of an update that is in the aggregate; not its difference, which would fill the memory."""

    examples: int
    metrics: Mapping[str, float]


class Round:
    """The round of one task. Devices come, go and report; `verdict` says whether it is over."""

    def __init__(
        self,
        task: Task,
        parameters: int,
        aggregate: Aggregate,
        quorum: int,
        present: Iterable[str],
        *,
        target: int = 0,
        grace: float = 0.0,
        fits: Callable[[str], bool] = lambda _: True,
        oldest: int = 1,
        earlier: Collection[tuple[int, str]] = (),
    ) -> None:
        """Call those of the devices `present` that `task` calls; at least `quorum` of them must report.

        `parameters` is how many values an update has. With `target` above 0 so many updates suffice, and those of the
        next `grace` seconds. `fits` tells whether a device has what the task needs. Updates of rounds before `oldest`
        do not count, however much staleness the task allows for; those in `earlier` have been counted before.
        """
        self.task = task
        self.aggregate = aggregate
        self.quorum = quorum
        self.called: set[str] = set()
        self.counted: dict[str, Counted] = {}
        self.stale: dict[tuple[int, str], Counted] = {}  # of earlier rounds, by round and device
        self.parameters = parameters
        self.declined: dict[str, str] = {}
        self.target = target
        self.grace = grace
        self._fits = fits
        self._oldest = max(oldest, task.round - task.staleness)
        self._earlier = frozenset(earlier)
        self._full = math.inf  # seconds after which the round had what was wanted
        self._waiting: set[str] = set()
        for device in present:
            self.join(device)

    @property
    def reported(self) -> int:
        """How many updates are in the aggregate."""
        return len(self.counted) + len(self.stale)

    def join(self, device: str) -> None:
        """A device is there, from the start or later: the retained task has called it all the same."""
        if not self._calls(device):
            self._waiting.discard(device)  # it is another now than it was
        elif device not in self.counted and device not in self.declined:
            self.called.add(device)
            self._waiting.add(device)

    def lose(self, device: str) -> None:
        """A device is gone: it is not waited for until it joins again, but its update counts should it still come."""
        self._waiting.discard(device)

    def decline(self, device: str, reason: str) -> None:
        """A device will not contribute to this round, whether it is there or not; `verdict` tells why."""
        if self._calls(device) and device not in self.counted:
            self.called.add(device)
            self.declined[device] = seen(reason)
        self._waiting.discard(device)

    def take(self, update: Update) -> Receipt:
        """Fold `update` in if it may count; the same update again is `counted` without being folded twice.

        Raises StoreError where there is no room for it.
        """
        if (receipt := self._settled(update.device, update.round)) is not None:
            return receipt
        try:
            self._fold(update)
        except StoreError:
            raise  # our own disk, which the device cannot mend: the update stays with it
        except FedfleetError as error:
            if update.round == self.task.round:
                self.decline(update.device, str(error))
            return _refused(update.round, str(error))
        self._count(update)
        return Receipt(update.round, "counted")

    def foresee(self, device: str, number: int) -> Receipt | None:
        """Return what is to be said of an update of round `number` whatever is in it; None where that decides."""
        settled = self._settled(device, number)
        if settled is None and not self._fits(device):  # what the journal has counted counts, whatever it fits now
            return _refused(number, f"the task needs {self.task.needs}")
        return settled

    def verdict(self, elapsed: float) -> Verdict:
        """Whether the round is over, `elapsed` seconds after its task was published."""
        have, others = self.reported, self._others()
        if have >= self.quorum and not self._waiting:
            late = f", and {len(self.stale)} of earlier rounds" if self.stale else ""
            all_ = f"all {len(self.counted)} present devices that were called have reported"
            return Verdict("closed", f"{all_}{late}{others}")
        if self.target and have >= max(self.target, self.quorum):
            self._full = min(self._full, elapsed)
        turnout = f"{self._turnout()} reported"
        if elapsed >= self._full + self.grace:
            return Verdict("closed", f"{turnout}, {self.target} were wanted{others}")
        if elapsed < self.task.deadline:
            return Verdict("open", self._open(have) + others)
        if have >= self.quorum:
            return Verdict("closed", f"deadline of {self.task.deadline:g} s with {turnout}{others}")
        reason = f"deadline of {self.task.deadline:g} s with {have} reported, quorum {self.quorum}{others}"
        return Verdict("abandoned", reason)

    def refused(self) -> str:
        """Say so, and why, if every device that was called has declined; only the deadline is left to wait for then."""
        if not self.called or self.called != set(self.declined):
            return ""
        return f"{len(self.declined)} of {len(self.called)} devices called have declined, {self._first()}"

    def _fold(self, update: Update) -> None:
        """Fold `update` in; raises FedfleetError, and changes nothing, where it does not fit."""
        behind = self.task.round - update.round
        if isinstance(self.aggregate, Decoding) and not behind:
            self.aggregate.take(update.codec, update.delta, update.examples)
            return
        delta = grow(update.codec, update.delta, self.parameters)
        told = Told(self.task.plan, update.metrics)
        self.aggregate.add(discounted(delta, behind) if behind else delta, update.examples, told)

    def _calls(self, device: str) -> bool:
        return self.task.calls(device) and self._fits(device)

    def _count(self, update: Update) -> None:
        """Note an update that is in the aggregate. Who sent an old one is still waited for: the task calls it too."""
        device, noted = update.device, Counted(update.examples, update.metrics)
        self.called.add(device)
        if update.round != self.task.round:
            self.stale[update.round, device] = noted
            return
        self.counted[device] = noted
        self._waiting.discard(device)
        self.declined.pop(device, None)

    def _settled(self, device: str, number: int) -> Receipt | None:
        """What is to be said of an update by its round, the device's turn, and what was counted before."""
        if (number, device) in self._earlier or (number, device) in self.stale:
            return Receipt(number, "counted")
        if not self._oldest <= number <= self.task.round:
            return _refused(number, f"round {number} is over, the task is round {self.task.round}")
        if not self.task.calls(device):
            return _refused(number, "the task does not call this device")
        return Receipt(number, "counted") if number == self.task.round and device in self.counted else None

    def _turnout(self) -> str:
        late = f" and {len(self.stale)} of earlier rounds" if self.stale else ""
        return f"{len(self.counted)} of {len(self.called)}{late}"

    def _open(self, have: int) -> str:
        wanted = f", {self.target} wanted" if self.target else ""
        if self._full < math.inf:
            return f"{have} reported{wanted}; {self.grace:g} s of grace for {self._awaited()}"
        return f"{have} reported, quorum {self.quorum}{wanted}; waiting for {self._awaited()}"

    def _awaited(self) -> str:
        """Who is waited for; not in order where they are many, for it is asked often."""
        if not self._waiting:
            needs = str(self.task.needs)
            return f"more devices with {needs}" if needs else "more devices"
        if len(self._waiting) <= NAMED:
            return ", ".join(sorted(self._waiting))
        return f"{', '.join(islice(self._waiting, NAMED))} and {len(self._waiting) - NAMED} more"

    def _others(self) -> str:
        return f"; {len(self.declined)} declined, {self._first()}" if self.declined else ""

    def _first(self) -> str:
        return ": ".join(min(self.declined.items()))


def _refused(number: int, reason: str) -> Receipt:
    return Receipt(number, "refused", reason=seen(reason))
