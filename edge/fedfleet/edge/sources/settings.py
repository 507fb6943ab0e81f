"""`[source.folder]`, `[source.readings]` and `[source.python]` of `agent.toml`; all that are given feed one store."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedfleet.wire.record import require
from fedfleet.wire.settings import Broker

CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
MAX_WINDOW = 2**20  # numbers in an example


@dataclass(frozen=True)
class Folder:
    """CSV and NPZ files that are put into `path`, relative to the settings file, and stay there as they are.

    `label` names the column of a CSV file that is learnt, `task = "regression"` makes it a number where it looks like a
    class. A file is read once it has not changed for `quiet` seconds; one that has grown since is read on from there.
    """

    path: str
    label: str = ""
    task: str = ""
    quiet: float = 5.0

    def __post_init__(self) -> None:
        require(bool(self.path), "path must name a folder")
        require(self.task in ("", "regression"), 'task must be "regression" or left out')
        require(0 < self.quiet <= 86400, "quiet must be above 0 and at most 86400 seconds")


@dataclass(frozen=True)
class Readings:
    """Sensors that publish JSON, as Zigbee2MQTT and Tasmota do; `+` in `topic` stands for one level.

    `fields` are dotted paths to numbers in that JSON, such as `AM2301.Temperature`. `window` readings of one sensor
    become an example [window, fields], and the next one begins `stride` readings later (0: one window later). A pause
    of more than `max_gap` seconds begins a new window. With a `label_topic`, whose payload is a class or has it in
    `label_field`, a window gets the class said last, and none has readings of two; without one, the target is the
    window itself, as an autoencoder wants it. `broker` is where the sensors are, where that is not the fleet's.
    """

    topic: str
    fields: tuple[str, ...]
    window: int = 64
    stride: int = 0
    label_topic: str = ""
    label_field: str = ""
    max_gap: float = 3600.0
    broker: Broker | None = None

    def __post_init__(self) -> None:
        require(bool(self.topic) and "#" not in self.topic, "topic must name a topic; + stands for one level, # is not")
        require(bool(self.fields) and all(self.fields), "fields must name at least one field")
        require(
            self.window >= 1 and self.window * len(self.fields) <= MAX_WINDOW, "window must be at least 1, and small"
        )
        require(0 <= self.stride <= self.window, "stride must be 0 to window")
        require("+" not in self.label_topic and "#" not in self.label_topic, "label_topic must be one topic")
        require(bool(self.label_topic) or not self.label_field, "label_field needs a label_topic")
        require(self.max_gap > 0, "max_gap must be above 0 seconds")


@dataclass(frozen=True)
class Python:
    """A function of the owner's, `module:function`, the module lying beside the settings file.

    Called every `every` seconds, it returns arrays x [N, ...] and y [N] or [N, k], or None where there is nothing new.
    """

    callable: str
    every: float = 10.0

    def __post_init__(self) -> None:
        require(CALLABLE.fullmatch(self.callable) is not None, "callable must be like module:function")
        require(self.every > 0, "every must be above 0 seconds")


@dataclass(frozen=True)
class Sources:
    """All sources of a device; None for those that it does not have."""

    folder: Folder | None = None
    readings: Readings | None = None
    python: Python | None = None
