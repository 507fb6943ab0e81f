"""The course of a rollout: reports of devices in, what is to be handed out to whom out. No clock, no I/O.

After hawkBit's rollouts (Eclipse hawkBit, "Rollout Management"): groups in order; a share of a group that has the new
version well opens the next one, a share that has failed on it stops everything. Beyond that what was handed out is
taken back: whoever has it gets the one before.

What is handed out follows from the course alone (`handed`), so that whoever was killed in between says it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from fedfleet.wire.calling import require_tags
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import require
from fedfleet.wire.release import takes_part

STATES = ("running", "waiting", "done", "aborted")
MAX_GROUPS = 64


@dataclass(frozen=True)
class Group:
    """Devices with any of `tags`; all without. Or a `share` of the fleet, those of the groups before among them.

    `success` is the share of it that must have the new version well before the next group is opened, `error` the share
    that may not fail. With `approve` the group is opened by hand.
    """

    tags: tuple[str, ...] = ()
    share: float = 1.0
    success: float = 1.0
    error: float = 0.1
    approve: bool = False

    def __post_init__(self) -> None:
        require_tags(self.tags)
        require(0 < self.share <= 1, "a share must be above 0 and at most 1")
        require(0 < self.success <= 1, "the success threshold must be above 0 and at most 1")
        require(0 < self.error <= 1, "the error threshold must be above 0 and at most 1")

    def __str__(self) -> str:
        return ", ".join(self.tags) or ("all" if self.share >= 1 else f"{100 * self.share:g} %")


@dataclass(frozen=True)
class Rollout:
    """One rollout: `opened` counts the groups that have been opened; `reason` says why it stopped, or waits.

    `paused` opens no more groups; what fails stops it all the same. `keys` is the folder of the keys by which the way
    back is signed, empty where its owner does that; `settled` says that the last word of it was handed out.
    """

    version: str
    before: str
    groups: tuple[Group, ...]
    opened: int = 0
    state: str = "running"
    paused: bool = False
    reason: str = ""
    keys: str = ""
    settled: bool = False

    def __post_init__(self) -> None:
        require(self.state in STATES, f"state must be one of {', '.join(STATES)}")
        require(1 <= len(self.groups) <= MAX_GROUPS, f"a rollout has 1 to {MAX_GROUPS} groups")
        require(0 <= self.opened <= len(self.groups), "no more groups may be open than there are")
        shares = [group.share for group in self.groups]
        require(shares == sorted(shares), "shares must grow from group to group")

    @property
    def over(self) -> bool:
        """Whether nothing more will be opened."""
        return self.state in ("done", "aborted")


class Report(NamedTuple):
    """What a device says: its tags, the version it runs, and what became of the version that is rolled out.

    `word` is empty, or one of fetching, waiting, trial, good, back, refused.
    """

    tags: tuple[str, ...] = ()
    version: str = ""
    word: str = ""
    why: str = ""

    def well(self, version: str) -> bool:
        """Whether it has `version`, and has proved it."""
        return self.word == "good" or (self.version == version and self.word not in ("trial", "back"))

    @property
    def failed(self) -> bool:
        """Whether it has gone back from it, or would not have it."""
        return self.word in ("back", "refused")

    def exposed(self, version: str) -> bool:
        """Whether it runs it, or has run it."""
        return self.version == version or self.word in ("trial", "good", "back")


class Handed(NamedTuple):
    """What is to be handed out: a version, to devices with any of these tags (all without), and a share of them."""

    version: str
    tags: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class Count:
    """A group's devices: how many there are, have it well, failed, were exposed to it; and why those failed."""

    devices: int = 0
    well: int = 0
    failed: int = 0
    exposed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


def begun(rollout: Rollout) -> Rollout:
    """Return a new rollout with its first group opened, or waiting for approval."""
    return _onward(rollout)


def advanced(rollout: Rollout, reports: Mapping[str, Report]) -> Rollout:
    """Return the rollout after what the fleet's devices report now."""
    if rollout.over:
        return rollout
    counts = counted(rollout, reports)[: rollout.opened]
    for group, count in zip(rollout.groups, counts):
        if count.failed and count.failed >= group.error * count.devices:
            why = next((f": {device}: {text}" for device, text in sorted(count.reasons.items()) if text), "")
            return stopped(rollout, f"{count.failed} of {count.devices} devices failed in group {group}{why}")
    if rollout.paused or rollout.state == "waiting" or not rollout.opened:
        return rollout
    group, count = rollout.groups[rollout.opened - 1], counts[-1]
    if count.devices and count.well < group.success * count.devices:
        return rollout
    if not reports:  # a fleet of which nothing is heard yet proves nothing
        return rollout
    return _onward(rollout)


def paused(rollout: Rollout) -> Rollout:
    """Open no more groups until it is resumed. Raises SettingsError."""
    _require_open(rollout)
    return replace(rollout, paused=True)


def resumed(rollout: Rollout) -> Rollout:
    """Go on with a rollout that was paused. Raises SettingsError."""
    _require_open(rollout)
    if not rollout.paused:
        raise SettingsError(f"the rollout of {rollout.version} is not paused")
    return replace(rollout, paused=False)


def approved(rollout: Rollout) -> Rollout:
    """Open the group that waits for approval. Raises SettingsError."""
    _require_open(rollout)
    if rollout.state != "waiting":
        raise SettingsError(f"nothing waits for approval: the rollout of {rollout.version} is {rollout.state}")
    if rollout.paused:
        raise SettingsError(f"the rollout of {rollout.version} is paused: resume it first")
    return replace(rollout, opened=rollout.opened + 1, state="running", reason="")


def stopped(rollout: Rollout, reason: str) -> Rollout:
    """Stop it, and take back what was handed out. Raises SettingsError."""
    _require_open(rollout)
    return replace(rollout, state="aborted", paused=False, reason=reason)


def handed(rollout: Rollout) -> Handed | None:
    """Return what is to be handed out; None where that is to stay as it was before."""
    if not rollout.opened:
        return None
    opened = rollout.groups[: rollout.opened]
    everyone = not all(group.tags for group in opened)
    tags = () if everyone else tuple(sorted({tag for group in opened for tag in group.tags}))
    if rollout.state == "aborted":
        return Handed(rollout.before, tags, 1.0)  # another version draws other devices for a share: so to all
    return Handed(rollout.version, tags, opened[-1].share)


def counted(rollout: Rollout, reports: Mapping[str, Report]) -> list[Count]:
    """Return the count of each group, in order; a device is in the first one that takes it."""
    found: list[dict[str, Report]] = [{} for _ in rollout.groups]
    for device, report in reports.items():
        place = next(
            (k for k, group in enumerate(rollout.groups) if _takes(group, rollout.version, device, report)), None
        )
        if place is not None:
            found[place][device] = report
    return [_count(rollout.version, members) for members in found]


def _count(version: str, members: Mapping[str, Report]) -> Count:
    return Count(
        devices=len(members),
        well=sum(report.well(version) for report in members.values()),
        failed=sum(report.failed for report in members.values()),
        exposed=sum(report.exposed(version) for report in members.values()),
        reasons={device: report.why for device, report in members.items() if report.failed},
    )


def _takes(group: Group, version: str, device: str, report: Report) -> bool:
    return takes_part(version, group.tags, group.share, device, report.tags)


def _onward(rollout: Rollout) -> Rollout:
    if rollout.opened == len(rollout.groups):
        return replace(rollout, state="done", reason="")
    following = rollout.groups[rollout.opened]
    if following.approve:
        return replace(rollout, state="waiting", reason=f"group {following} waits for approval")
    return replace(rollout, opened=rollout.opened + 1, state="running", reason="")


def _require_open(rollout: Rollout) -> None:
    if rollout.over:
        raise SettingsError(f"the rollout of {rollout.version} is {rollout.state}; start another one")
