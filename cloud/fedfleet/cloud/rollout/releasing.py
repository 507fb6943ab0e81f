"""Rollouts of the agent's releases: what the fleet's devices say goes in, what the repository hands out comes out.

The course is kept in the repository, `rollout.json`. What is handed out is compared with what the course wants each
time, so whoever was killed between the two comes to the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fedfleet.cloud import fleet, schema
from fedfleet.cloud.releases.published import Published, listed, publish, published
from fedfleet.cloud.rollout import course
from fedfleet.cloud.rollout.course import Group, Report, Rollout
from fedfleet.cloud.rollout.kept import Kept
from fedfleet.wire.errors import SettingsError, StoreError
from fedfleet.wire.release import outcome

log = logging.getLogger("fedfleet.aggregator")
EVERY = 5.0  # seconds between two looks at the fleet


def kept(repo: Path) -> Kept[Rollout]:
    """Where a repository keeps its rollout."""
    return Kept(repo, "rollout.json", Rollout)


def start(repo: Path, version: str, groups: Sequence[Group], before: str = "", keys: str = "") -> Rollout:
    """Begin the rollout of `version`, from `before`, or from what is handed out now. Raises SettingsError."""
    _require_none(kept(repo).read())
    now = published(repo)
    before = before or (now.version if now else "")
    if not before:
        raise SettingsError("nothing is handed out yet, so there is nothing to go back to: name a version with --back")
    for wanted in (version, before):
        if wanted not in {each.version for each in listed(repo)}:
            raise SettingsError(f"{repo} has no signed version {wanted}; fedfleet release add makes it one")
    if version == before:
        raise SettingsError(f"version {version} is what would be gone back to; name another with --back")

    def begin(found: Rollout | None) -> Rollout:
        _require_none(found)
        return course.begun(Rollout(version, before, tuple(groups), keys=keys))

    return hand_out(repo, kept(repo).change(begin))


def order(repo: Path, change: Callable[[Rollout], Rollout]) -> Rollout:
    """Change the rollout that there is, and hand out what follows. Raises SettingsError, StoreError."""
    if kept(repo).read() is None:
        raise SettingsError("no rollout was ever started; fedfleet rollout start begins one")

    def ordered(found: Rollout | None) -> Rollout:
        assert found is not None
        return change(found)

    return hand_out(repo, kept(repo).change(ordered))


def look(repo: Path, state: Path) -> Rollout | None:
    """Let the rollout go on by what the devices in the aggregator's folder `state` say. Raises StoreError."""
    found = kept(repo).read()
    if found is None or found.settled:
        return found
    told = reports(state, found.version)
    after = order(repo, lambda rollout: course.advanced(rollout, told))
    if (after.opened, after.state) != (found.opened, found.state):
        log.info("rollout of %s: %s", after.version, said(after))
    return after


def hand_out(repo: Path, rollout: Rollout) -> Rollout:
    """Publish what `rollout` wants, if something else is, and note that its last word was. Raises StoreError."""
    wanted = course.handed(rollout)
    if wanted is not None:
        if rollout.state == "aborted" and rollout.keys and not returns(repo, rollout):
            _sign_the_way_back(repo, rollout)
        what = Published(wanted.version, wanted.tags, wanted.share)
        if published(repo) != what:
            publish(repo, what)
    if not rollout.over or rollout.settled:
        return rollout
    return kept(repo).change(lambda found: replace(found or rollout, settled=True))


def returns(repo: Path, rollout: Rollout) -> bool:
    """Whether devices that have the new version well take the one before: devices go to higher serials only."""
    serials = {version: [] for version in (rollout.version, rollout.before)}  # type: dict[str, list[int]]
    for each in listed(repo):
        serials.get(each.version, []).append(each.serial)
    return max(serials[rollout.before], default=0) > max(serials[rollout.version], default=0)


def reports(state: Path, version: str) -> dict[str, Report]:
    """Return what each device of the fleet says of `version`, nobody where no aggregator has run. Raises StoreError."""
    if not (state / schema.DATABASE).is_file():
        return {}
    found = dict[str, Report]()
    for device in fleet.devices(state):
        told, word, why = outcome(device.release)
        about = told == version
        tags = tuple(device.status.get("ability", {}).get("tags", ()))
        found[device.device] = Report(tags, device.version, word if about else "", why if about else "")
    return found


def said(rollout: Rollout) -> str:
    """Return where a rollout stands, in a line."""
    how = "paused" if rollout.paused else rollout.state
    reason = f": {rollout.reason}" if rollout.reason else ""
    return f"{how}, {rollout.opened} of {len(rollout.groups)} groups opened{reason}"


class Rolling:
    """Drives a repository's rollout beside an aggregator: `step` it."""

    def __init__(self, repo: Path, state: Path, clock: Callable[[], float]) -> None:
        self._repo, self._state, self._clock = repo, state, clock
        self._looked = -EVERY
        self._trouble = ""

    def step(self) -> None:
        """Look at the fleet, if it is time; trouble is named, and holds nothing up."""
        if self._clock() - self._looked < EVERY:
            return
        self._looked = self._clock()
        try:
            look(self._repo, self._state)
            self._trouble = ""
        except (StoreError, SettingsError) as error:
            if str(error) != self._trouble:
                log.warning("rollout: %s", error)
            self._trouble = str(error)


def _require_none(found: Rollout | None) -> None:
    if found is not None and not found.over:
        raise SettingsError(f"the rollout of {found.version} is {found.state}; abort it first")


def _sign_the_way_back(repo: Path, rollout: Rollout) -> None:
    from fedfleet.cloud.releases.again import sign_again
    from fedfleet.cloud.releases.keys import load
    from fedfleet.cloud.releases.repository import Repository

    try:
        missing = sign_again(Repository(repo), rollout.before, load(Path(rollout.keys)))
    except SettingsError as error:  # what is handed out must not wait for it
        missing = str(error)
    if missing:
        log.error("rollout of %s: the way back to %s is not signed: %s", rollout.version, rollout.before, missing)
