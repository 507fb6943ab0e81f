"""The aggregator: publishes tasks, folds updates, steps the model, and does it all again from its journal.

One thread, driven by `step`, like the agent. What decides is in `rounds`, what sums in `sums`, what lasts in `journal`;
here they are tied to the bus.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial

from fedfleet.cloud.delivery import as_task, gone_back_to
from fedfleet.cloud.federation import Evaluate, Federation, RoundRecord, packed, recorded, restore
from fedfleet.cloud.gate import examined, judged, settle
from fedfleet.cloud.intake import Intake
from fedfleet.cloud.journal import Journal, Model
from fedfleet.cloud.opening import Start, next_task, resumed, seat
from fedfleet.cloud.outbox import HASTE, Outbox
from fedfleet.cloud.presence import Presence
from fedfleet.cloud.refine.clients import clients
from fedfleet.cloud.refine.plan import Made, Refine, Refinement
from fedfleet.cloud.releases.serving import Serving
from fedfleet.cloud.rounds import Round, Verdict
from fedfleet.wire.bus import Bus, Delivery
from fedfleet.wire.chunks import Want
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import Status, Task, decode, encode
from fedfleet.wire.topics import Topics

log = logging.getLogger("fedfleet.aggregator")


class Aggregator:
    """One federation. Build it, then call `step` until `done`."""

    def __init__(
        self,
        federation: Federation,
        topics: Topics,
        bus: Bus,
        journal: Journal,
        clock: Callable[[], float],
        evaluate: Evaluate | None = None,
        report: Callable[[RoundRecord], None] = lambda _: None,
        refine: Refine | None = None,
        denied: Callable[[], Container[str]] = tuple,
        releases: Serving | None = None,
    ) -> None:
        """Pick up where `journal` ends.

        `evaluate` scores weights, `report` is told of every round that ends, and `refine` is given what a round has
        made, before it is the round's model, where the federation has that due. What those say that are `denied` is
        dropped; it returns another object when these have changed. `releases` are handed out meanwhile.
        """
        self._federation = replace(federation, plan=federation.strategy.plan(federation.plan))
        self._topics = topics
        self._bus = bus
        self._journal = journal
        self._clock = clock
        self._evaluate = evaluate
        self._report = report
        self._refine = refine
        self._refining = ""
        self._denied, self._out = denied, denied()
        self.weights, self._moments = restore(journal, federation)
        journal.tidy()
        if evaluate and (number := journal.unscored()):  # we were ended before it was, or had nothing to do it with
            journal.score(number, evaluate(self.weights))
        settle(journal.folder, federation.evaluation, central=evaluate is not None)
        over, back = journal.closed_rounds() >= federation.rounds.total, gone_back_to(journal)
        self._owed = back if over else None
        self.done = over and back is None
        self._last_round = journal.last_round()
        self._underway = self._last_round > 0
        self._program = journal.blobs.put(federation.program)
        self._round: Round | None = None
        self._began = clock()
        self._intake: Intake | None = None
        self._delivered: Task | None = None
        self._follows = ""  # the round before and what became of it, where that was nothing
        ended = journal.ended_task()
        self._superseded = list(ended.moving) if ended else []
        self.presence = Presence()
        self._outbox = Outbox(bus, topics, journal.blobs, clock)
        self._handing = [self._outbox.step, *([releases.step] if releases else [])]
        self._repeating = [self._outbox.repeat, *([releases.want] if releases else [])]
        # The order matters: a broker hands out what it retains in the order of subscription, so the fleet's last task
        # is known before the first device is.
        for pattern in (topics.task, topics.status(), topics.update(), topics.want()):
            bus.subscribe(pattern)
        if not self.done:
            self._outbox.put(self._program)

    def step(self, timeout: float) -> None:
        """Handle what arrives within `timeout` seconds; end the round, and begin the next one, when it is time."""
        self._shut_out()
        for delivery in self._bus.deliveries(timeout if self._outbox.idle else min(timeout, HASTE)):
            self._handle(delivery)
        if self._intake is not None:
            self._intake.step()
        for hand in self._handing:
            hand()
        if self.done:
            return
        if self._round is None:
            if self._ready():
                self._begin() if self._owed is None else self._deliver(self._owed)
            return
        verdict = self._round.verdict(self._clock() - self._began)
        if verdict.state != "open":
            self._end(self._round, verdict)

    def hurry(self) -> str:
        """End the round now if every device that it called has declined, not at its deadline; return why, or nothing.

        For a fleet that no one can mend meanwhile: on a real one, a pause is what keeps rounds from rushing by.
        """
        if self._round is None or not (reason := self._round.refused()):
            return ""
        self._end(self._round, Verdict("abandoned", reason))
        return reason

    def waiting(self) -> str:
        """Why nothing is happening right now, in one line."""
        if self._refining:
            return self._refining
        if self._round is None:
            rounds = self._federation.rounds
            needs = f" with {rounds.needs}" if str(rounds.needs) else ""
            return f"{len(self.presence.fit(rounds.needs))} of {rounds.devices} devices are there{needs}"
        reason = self._round.verdict(self._clock() - self._began).reason
        return f"{reason}; round {self._round.task.round} follows {self._follows}" if self._follows else reason

    def declined(self) -> dict[str, str]:
        """Return the devices that will not contribute to the round, and why."""
        return dict(self._round.declined) if self._round else {}

    def progress(self) -> tuple[int, int, int]:
        """Return the number of the round, how many devices it has called, and how many of them have reported."""
        if self._round is None:
            return self._last_round, 0, 0
        return self._round.task.round, len(self._round.called), self._round.reported

    def retire(self) -> None:
        """Clear the task, and what it named, if the federation is over, so that no device trains for nothing.

        A model that was gone back to stays on the broker, for devices that come later.
        """
        if self.done and self._owed is None:
            self._outbox.say(self._topics.task, b"")
            self._superseded.append(self._program)
            self._clear()
            self._outbox.farewell()

    def _ready(self) -> bool:
        """Whether a round may begin: enough devices are there, or those of our last start had a deadline to return."""
        rounds = self._federation.rounds
        if len(self.presence.fit(rounds.needs)) >= rounds.devices:
            return True
        return self._underway and self._clock() - self._began >= rounds.deadline

    def _handle(self, delivery: Delivery) -> None:
        try:
            if delivery.topic == self._topics.task:
                self._see_task(delivery.payload)
            elif self._topics.device(delivery.topic) in self._out:
                log.info("dropped a message on %s: this device was shut out", delivery.topic)
            elif delivery.topic.endswith("/status"):
                self._see_status(self._topics.device(delivery.topic), delivery.payload)
            elif delivery.topic.endswith("/want"):
                for repeat in self._repeating:
                    repeat(decode(Want, delivery.payload).names)
            elif self._intake is not None:
                device = self._topics.device(delivery.topic)
                self.presence.heard(device)
                self._intake.take(device, delivery)
        except FrameError as error:
            log.warning("dropped a message on %s: %s", delivery.topic, error)

    def _see_task(self, payload: bytes) -> None:
        """Rounds of a fleet only grow: one that an earlier aggregator has published is never used again.

        What that one had retained goes when our first task is there.
        """
        if payload:
            task = decode(Task, payload)
            self._last_round = max(self._last_round, task.round)
            if self._round is None and self._delivered is None:
                self._superseded += [blob for blob in task.moving if blob not in self._superseded]

    def _see_status(self, device: str, payload: bytes) -> None:
        status = decode(Status, payload) if payload else None
        self.presence.see(device, status)
        if status is not None and status.declined:
            known = {"device": device, "round": status.declined}
            log.warning("%s declined round %d: %s", device, status.declined, status.reason, extra=known)
        if self._round is not None:
            seat(self._round, self.presence, device)

    def _shut_out(self) -> None:
        """Forget the devices that have been denied since we last looked: no round waits for them, or takes theirs."""
        before, self._out = self._out, self._denied()
        for device in self.presence.remove(self._out) if self._out is not before else ():
            log.warning("%s is shut out from now on", device)
            if self._intake is not None:
                self._intake.forget(device)

    def _begin(self, before: Intake | None = None) -> None:
        """Begin a round, or go on with the one that the journal left open; `before` is the intake of the last."""
        task = self._open_task()
        if task is None:
            start = Start(self._last_round + 1, self._program, self.weights, self._moments)
            task = next_task(self._federation, self._journal, self.presence, start)
            self._journal.open_round(task, self._federation.name)
        self._began = self._clock()  # of a round that goes on after a new start as well: its devices come back first
        self._round = resumed(self._federation, self._journal, self.presence, task)
        self._intake = Intake(self._round, self._bus, self._topics, self._journal, self._clock, before)
        self._last_round = task.round
        for blob in task.moving:
            self._outbox.put(blob)
        self._outbox.say(self._topics.task, encode(task))
        self._clear(but=task)
        self._outbox.step()

    def _deliver(self, model: Model) -> None:
        """Have the whole fleet fetch a model that was gone back to; done when the broker has it all."""
        if self._delivered is None:
            self._delivered = task = as_task(model, self._program, self.weights.size, self._last_round)
            self._outbox.put(task.weights)
            self._outbox.say(self._topics.task, encode(task))
            self._clear(but=task)
            self._outbox.step()
        self.done = self._outbox.idle and not self._bus.pending

    def _open_task(self) -> Task | None:
        """Return the task that the journal left open, unless nobody can work on it any more."""
        task = self._journal.open_task()
        if task is None or (task.round >= self._last_round and task.program == self._program):
            return task
        self._abandon(task.round, "a newer task, or another program, has taken its place")
        self._superseded += task.moving
        return None

    def _end(self, round_: Round, verdict: Verdict) -> None:
        seconds = self._clock() - self._began
        bytes_up, refused = (self._intake.bytes, self._intake.refused) if self._intake else (0, 0)
        refined = None
        before = examined(self._journal, round_, self._federation.measure) if verdict.state == "closed" else None
        if verdict.state == "closed":
            strategy = self._federation.strategy
            self.weights, self._moments = strategy.step(self.weights, round_.aggregate, self._moments)
            refined = self._refined(round_)
            self._journal.close_round(round_.task.round, *packed(self.weights, self._moments), refined)
            self._follows = ""
        else:
            self._abandon(round_.task.round, verdict.reason)
        self._superseded += round_.task.moving
        ended, self._round, self._intake = self._intake, None, None
        self.done = self._journal.closed_rounds() >= self._federation.rounds.total
        record = replace(
            recorded(round_, verdict, seconds, bytes_up, self.weights, refused), federated=before, refined=refined
        )
        if not self.done:
            self._begin(ended)  # first the devices' work, then our own
        central, found = self._evaluate is not None, self._scored(record)
        self._report(judged(self._journal.folder, found, self._federation.evaluation, central=central))

    def _refined(self, round_: Round) -> Refinement | None:
        """Refine what the round has made, if that is due, before anyone else has seen it; return how."""
        task, federation = round_.task, self._federation
        if self._refine is None or not federation.refining.due(self._journal.closed_rounds() + 1):
            return None
        made = Made(task.round, self.weights, partial(clients, self._journal, task, round_.parameters))
        self._refining = f"refining the model of round {task.round}: {federation.refining.kind}"
        self.weights, how = self._refine(made)
        self._refining = ""
        return how

    def _abandon(self, number: int, reason: str) -> None:
        log.warning("round %d abandoned: %s", number, reason, extra={"round": number})
        self._journal.abandon_round(number)
        self._follows = f"round {number}, abandoned: {reason}"

    def _scored(self, record: RoundRecord) -> RoundRecord:
        if self._evaluate is None:
            return record
        scores = self._evaluate(self.weights)
        self._journal.score(record.round, scores)
        return replace(record, scores=scores)

    def _clear(self, but: Task | None = None) -> None:
        """Take the weights of earlier rounds off the broker, now that a newer task names others."""
        needed = but.moving if but else ()
        for blob in self._superseded:
            if blob not in needed:
                self._outbox.drop(blob)
        self._superseded.clear()
