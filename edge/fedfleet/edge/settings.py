"""The agent's settings file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from fedfleet.edge.guards import Guards
from fedfleet.edge.sources.settings import Sources
from fedfleet.edge.state import SPOOL
from fedfleet.wire.calling import require_tags
from fedfleet.wire.record import require
from fedfleet.wire.settings import Broker, load
from fedfleet.wire.topics import NAME


@dataclass(frozen=True)
class Enrolment:
    """How the device gets its certificate: by a `claim`, a file of `fedfleet enrol claim`, relative to the settings."""

    claim: str = ""


@dataclass(frozen=True)
class Releases:
    """Updates of the agent over the air: whose are taken, by the TUF root metadata in the file `root`; off without.

    `trial` are the seconds in which a new version must come on before the one before it is gone back to.
    """

    root: str = ""
    trial: float = 21_600.0

    def __post_init__(self) -> None:
        require(self.trial > 0, "trial must be above 0 seconds")


@dataclass(frozen=True)
class AgentSettings:
    """`agent.toml`. `state` is the agent's folder, relative to the file.

    `max_example_bytes` bounds the store, and so does `max_example_age`, in days; 0 for no such bound. `max_spool_bytes`
    bounds the update that is kept until the cloud has it. By its `tags` a task may choose the device; the `group` that
    it is enrolled in is one of them.
    """

    device: str
    fleet: str
    state: str = "state"
    max_example_bytes: int = 64 * 1024 * 1024
    max_spool_bytes: int = SPOOL
    broker: Broker = field(default_factory=Broker)
    guards: Guards = field(default_factory=Guards)
    source: Sources = field(default_factory=Sources)
    max_example_age: float = 0.0
    tags: tuple[str, ...] = ()
    group: str = ""
    enrol: Enrolment = field(default_factory=Enrolment)
    release: Releases = field(default_factory=Releases)

    def __post_init__(self) -> None:
        for key, value in (("device", self.device), ("fleet", self.fleet)):
            require(NAME.fullmatch(value) is not None, f"{key} must be 1 to 36 characters of a-z, 0-9 and -")
        require(
            self.max_example_bytes >= 2**21, "max_example_bytes must be at least 2097152, two segments of the store"
        )
        require(self.max_spool_bytes > 0, "max_spool_bytes must be above 0")
        require(self.max_example_age >= 0, "max_example_age must be 0 or a number of days")
        require(not self.group or NAME.fullmatch(self.group) is not None, "group must be 1 to 36 of a-z, 0-9 and -")
        require_tags(self.all_tags)
        one = bool(self.broker.certificate) and self.broker.certificate == self.broker.key
        require(one or not self.enrol.claim, "enrol.claim needs broker.certificate and broker.key, one file for both")

    @property
    def all_tags(self) -> tuple[str, ...]:
        """What rounds may choose the device by: its tags, and its group."""
        return self.tags if self.group in ("", *self.tags) else (*self.tags, self.group)

    @property
    def collects(self) -> bool:
        """Whether there is work for the collector."""
        return self.source != Sources() or self.max_example_age > 0


def load_agent(path: Path) -> tuple[AgentSettings, Path]:
    """Return the settings in `path` and the state folder they name. Raises SettingsError."""
    found, folder = load(path, AgentSettings), path.resolve().parent
    if found.enrol.claim:  # the certificate comes with its authority's, for those who name no other
        broker = replace(found.broker, ca=found.broker.ca or found.broker.certificate)
        found = replace(found, broker=broker, enrol=Enrolment(str(folder / found.enrol.claim)))
    return found, folder / found.state
