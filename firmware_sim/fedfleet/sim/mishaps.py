"""What goes wrong on command in a fleet that really runs: a small grammar, who is meant, and when it begins and ends.

    disconnect WHO          off the network
    kill WHO                without a word, as a power cut does; after `for` it starts again
    slow RATE [on WHO]      what it sends leaves at so many kbit or mbit a second
    loss SHARE [on WHO]     so many percent of its packets are lost, both ways
    memory SIZE [on WHO]    it has so much memory: 128m

WHO is a number of devices, a share such as 30%, or all, which is what is meant without. `for 20s` says how long, to the
end without; `at 3` has it begin with round 3, `at 45s` so long after the first round began; with that round without.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import permutation

AMOUNTS: dict[str, tuple[dict[str, float], str]] = {
    "slow": ({"kbit": 1e3, "mbit": 1e6}, "a rate, such as slow 256kbit"),
    "loss": ({"%": 0.01}, "a share, such as loss 10%"),
    "memory": ({"k": 2**10, "m": 2**20, "g": 2**30}, "a size, such as memory 128m"),
}
KINDS = ("disconnect", "kill", *AMOUNTS)
ABLE = {"docker": KINDS, "mqtt": ("disconnect", "kill")}  # what which engine can do
TIMES = {"s": 1.0, "m": 60.0}
NUMBER = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([a-z%]*)")
WHO = re.compile(r"all|\d{1,6}%?")
SHAPE = re.compile(r"([a-z]+) (\S+?)(?: on (\S+))?(?: for (\S+))?(?: at (\S+))?")
Tell = Callable[[int, float, str], None]  # the round, seconds since the first one began, what was done
LEAST_MEMORY = 6 * 2**20  # below it no container starts


@dataclass(frozen=True)
class Mishap:
    """One thing that goes wrong. `amount` is bits a second, a share or bytes; `lasts` is seconds, 0 to the end.

    It begins with round `round`, or where that is 0 `after` seconds; `who` is a number, a share in percent, or all.
    """

    kind: str
    who: str = "all"
    amount: float = 0.0
    lasts: float = 0.0
    round: int = 1
    after: float = 0.0
    text: str = ""

    def meant(self, devices: Sequence[str], seed: int) -> tuple[str, ...]:
        """Return the devices that are meant, drawn by the seed, in order; one at least."""
        if self.who == "all":
            return tuple(devices)
        number = int(self.who.rstrip("%"))
        many = max(1, round(number * len(devices) / 100)) if self.who.endswith("%") else number
        return tuple(devices[index] for index in sorted(permutation(len(devices), "mishap", self.text, seed)[:many]))


def quiet(round_: int, seconds: float, text: str) -> None:
    """Tell nobody."""


class Turn(NamedTuple):
    """A mishap begins for these devices, or ends."""

    mishap: Mishap
    devices: tuple[str, ...]
    begins: bool


class Frail(Protocol):
    """A fleet that can be hurt. Either method returns what was done, in words; a failure is words as well."""

    def afflict(self, mishap: Mishap, devices: Sequence[str]) -> str:
        """Have it go wrong for these devices."""

    def relieve(self, mishap: Mishap, devices: Sequence[str]) -> str:
        """Have it end."""


class Schedule:
    """When which mishap begins and ends, and for whom. No clock: it is told."""

    def __init__(self, mishaps: Iterable[Mishap], devices: Sequence[str], seed: int) -> None:
        """`devices` are all that there are."""
        self._waiting = [(mishap, mishap.meant(devices, seed)) for mishap in mishaps]
        self._lasting = list[tuple[float, Mishap, tuple[str, ...]]]()

    def due(self, round_: int, seconds: float) -> list[Turn]:
        """Return what is to be done now, in round `round_`, so long after the first one began; once each."""
        ended = [lasting for lasting in self._lasting if seconds >= lasting[0]]
        begun = [(m, who) for m, who in self._waiting if (round_ >= m.round if m.round else seconds >= m.after)]
        self._waiting = [waiting for waiting in self._waiting if waiting not in begun]
        self._lasting = [lasting for lasting in self._lasting if lasting not in ended]
        self._lasting += [(seconds + m.lasts, m, who) for m, who in begun if m.lasts]
        return [Turn(m, who, False) for _, m, who in ended] + [Turn(m, who, True) for m, who in begun]


def striking(
    mishaps: Sequence[Mishap],
    fleet: Frail,
    devices: Sequence[str],
    seed: int,
    tell: Tell,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[int], None]:
    """Return what is to be called with the number of the round again and again, and does to `fleet` what is due."""
    schedule, began = Schedule(mishaps, devices, seed), list[float]()

    def strike(round_: int) -> None:
        if not round_:
            return
        began[:] = began or [clock()]
        for mishap, meant, begins in schedule.due(round_, clock() - began[0]):
            said = (fleet.afflict if begins else fleet.relieve)(mishap, meant)
            tell(round_, clock() - began[0], f"{mishap.text}{'' if begins else ', over'}: {said}")

    return strike


def check(engine: str, mishaps: Iterable[Mishap]) -> None:
    """Raise SettingsError for mishaps that `engine` cannot do."""
    for mishap in mishaps:
        if engine not in ABLE:
            others = "; the engine virtual has --faults" if engine == "virtual" else ""
            raise SettingsError(f"--fault is for fleets that really run: --engine docker, or mqtt in part{others}")
        if mishap.kind not in ABLE[engine]:
            why = "its devices are processes, with neither network nor memory of their own"
            raise SettingsError(f"the engine {engine} cannot do {mishap.text!r}: {why}; take --engine docker")


def parse(text: str) -> Mishap:
    """Return the mishap that `text` says. Raises SettingsError with what would have been right."""
    words = " ".join(text.lower().split())
    found = SHAPE.fullmatch(words)
    if found is None or found[1] not in KINDS or (found[1] not in AMOUNTS and found[3]):
        raise SettingsError(
            f"fault {text[:60]!r} is none; write such as 'disconnect 30% for 20s', 'slow 256kbit for 30s at 3', "
            "'loss 10% on 2 for 30s', 'kill 1', 'memory 128m on 1 for 10s at 45s'"
        )
    kind, word, on, lasts, at = found.groups()
    who = (on or "all") if kind in AMOUNTS else word
    if not WHO.fullmatch(who) or (who != "all" and not 0 < int(who.rstrip("%")) <= (100 if "%" in who else 10**6)):
        raise SettingsError(f"fault {text[:60]!r}: {who} is nobody; name a number of devices, 1% to 100%, or all")
    amount = _amount(kind, word, text) if kind in AMOUNTS else 0.0
    round_, after = _moment(at, text)
    return Mishap(kind, who, amount, _seconds(lasts, text) if lasts else 0.0, round_, after, words)


def _amount(kind: str, word: str, text: str) -> float:
    units, wants = AMOUNTS[kind]
    found = NUMBER.fullmatch(word)
    if found is None or found[2] not in units:
        raise SettingsError(f"fault {text[:60]!r}: {kind} takes {wants}")
    amount = float(found[1]) * units[found[2]]
    if not (0 < amount < 1 if kind == "loss" else amount >= (LEAST_MEMORY if kind == "memory" else 1e3)):
        raise SettingsError(f"fault {text[:60]!r}: {word} is out of range; memory is 6m at least, loss below 100%")
    return amount


def _seconds(word: str, text: str) -> float:
    found = NUMBER.fullmatch(word)
    if found is None or found[2] not in TIMES or float(found[1]) == 0:
        raise SettingsError(f"fault {text[:60]!r}: {word} is no time; write 20s or 2m")
    return float(found[1]) * TIMES[found[2]]


def _moment(word: str | None, text: str) -> tuple[int, float]:
    """Return the round in which to begin, or 0 and the second."""
    if word is None:
        return 1, 0.0
    if word.isdecimal() and 0 < len(word) < 10 and int(word):
        return int(word), 0.0
    return 0, _seconds(word, text)
