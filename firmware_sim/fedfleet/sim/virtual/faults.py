"""What goes wrong in a virtual fleet, as rates; each draw hangs on the seed and on whom it meets, not on any order."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, fields, replace

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import Mismatch, require

ATTACKS = ("sign", "scale", "nan", "free", "labels", "reverse")
SPEED = (0.5, 2.0)  # a device's training time, as a multiple of the average one
SLOW = 20.0  # a straggler's
NUMBERS = struct.Struct(">8I")


@dataclass(frozen=True)
class Faults:
    """Shares of 0 to 1, but for `delay` and `training`, the average seconds that a message and a training take.

    Of the messages: `lose` are dropped by the broker's queue, `repeat` come twice, `reorder` are overtaken; at `cut`
    the device's link breaks. Of the devices in each round: `dropout` are gone once they have begun, `straggler` take 20
    times as long, `reboot` lose their power. Of the rounds: in `kill` the aggregator is killed and started anew, in
    `outage` its link breaks. `away` is the share of time that each device is out of reach. Of the devices: `sign` send
    the opposite of what they learned, `scale` ten times what they learned, `reverse` ten times its opposite, `nan` no
    numbers, `free` nothing; `labels` learn from wrong labels.
    """

    delay: float = 0.05
    training: float = 5.0
    lose: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    cut: float = 0.0
    dropout: float = 0.0
    straggler: float = 0.0
    reboot: float = 0.0
    kill: float = 0.0
    outage: float = 0.0
    away: float = 0.0
    sign: float = 0.0
    scale: float = 0.0
    nan: float = 0.0
    free: float = 0.0
    labels: float = 0.0
    reverse: float = 0.0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            most = 3600.0 if name in ("delay", "training") else 1.0
            require(0 <= getattr(self, name) <= most, f"{name} must be 0 to {most:g}")
        require(self.away < 1, "away must be below 1")
        require(sum(getattr(self, name) for name in ATTACKS) <= 1, f"{' + '.join(ATTACKS)} must be at most 1")

    def seconds(self, seed: int, device: str, round_: int) -> float:
        """Return how long `device` trains in a round."""
        speed = SPEED[0] + (SPEED[1] - SPEED[0]) * luck(seed, "speed", 0, device)[0]
        slow = luck(seed, "straggler", round_, device)[0] < self.straggler
        return self.training * speed * (SLOW if slow else 1.0)

    def attack(self, seed: int, device: str) -> str:
        """Return which of ATTACKS `device` plays; empty: none."""
        drawn = luck(seed, "attack", 0, device)[0]
        for name in ATTACKS:
            drawn -= getattr(self, name)
            if drawn < 0:
                return name
        return ""


KNOWN = {
    "none": Faults(),
    "field": Faults(
        delay=0.2, lose=0.001, repeat=0.01, reorder=0.02, cut=0.005,
        dropout=0.1, straggler=0.1, reboot=0.02, kill=0.02, outage=0.02, away=0.05,
    ),
    "storm": Faults(
        delay=0.5, lose=0.02, repeat=0.1, reorder=0.1, cut=0.03,
        dropout=0.3, straggler=0.2, reboot=0.2, kill=0.2, outage=0.2, away=0.1,
    ),
}  # fmt: skip


def parse(text: str) -> Faults:
    """Return the faults of `NAME`, `key=value,...` or `NAME,key=value,...`. Raises SettingsError."""
    name, *rest = text.split(",")
    if "=" in name:
        name, rest = "none", [name, *rest]
    if name not in KNOWN:
        raise SettingsError(f"unknown faults {name[:40]!r}; known: {', '.join(KNOWN)}, or key=value,...")
    rates = {}
    for pair in rest:
        key, _, value = pair.partition("=")
        if key not in Faults.__dataclass_fields__:
            known = ", ".join(Faults.__dataclass_fields__)
            raise SettingsError(f"unknown fault {key[:40]!r}; known: {known}")
        try:
            rates[key] = float(value)
        except ValueError:
            raise SettingsError(f"fault {key}: {value[:40]!r} is no number; write {key}=0.1") from None
    try:
        return replace(KNOWN[name], **rates)
    except Mismatch as error:
        raise SettingsError(f"faults: {error}") from None


def luck(seed: int, purpose: str, number: int, device: str) -> tuple[float, ...]:
    """Return eight numbers in [0, 1) that are always the same for these words."""
    digest = hashlib.sha256(f"{seed}:{purpose}:{number}:{device}".encode()).digest()
    return tuple([value / 2**32 for value in NUMBERS.unpack(digest)])  # not a generator, which takes twice as long
