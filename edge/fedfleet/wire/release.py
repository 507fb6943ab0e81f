"""Releases of the agent: which one is for whom, and what a device says became of it. Values only.

Nothing that a device relies on stands here: what a release is made of is named by signed metadata alone, and each file
of it is a blob by the name and size that stand there. Who writes this message decides when, and for whom, no more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fedfleet.wire.calling import require_tags
from fedfleet.wire.messages import VERSION, Blob, draw, seen
from fedfleet.wire.record import require

WORDS = ("fetching", "waiting", "trial", "good", "back", "refused")


@dataclass(frozen=True)
class Release:
    """The version that devices are to have: those with any of the tags `groups`, all where there are none.

    Of these a `share` takes part; a wider share keeps whoever took part in a narrower one. `timestamp` begins the
    signed metadata; `roots` is a JSON list of all root metadata since version 2, null where there is only version 1.
    """

    version: str
    timestamp: Blob
    roots: Blob | None = None
    groups: tuple[str, ...] = ()
    share: float = 1.0

    def __post_init__(self) -> None:
        require_whom(self.version, self.groups, self.share)

    def calls(self, device: str, tags: Collection[str]) -> bool:
        """Whether `device`, which has `tags`, is one of those it is for; each decides alone."""
        return takes_part(self.version, self.groups, self.share, device, tags)


def require_whom(version: str, groups: tuple[str, ...], share: float) -> None:
    """Raise Mismatch unless `version` can be handed out to a `share` of the devices with any of the tags `groups`."""
    require(VERSION.fullmatch(version) is not None, "version must be 1 to 36 characters, first a digit")
    require_tags(groups)
    require(0 < share <= 1, "share must be above 0 and at most 1")


def takes_part(version: str, groups: tuple[str, ...], share: float, device: str, tags: Collection[str]) -> bool:
    """Whether `device`, which has `tags`, is one of a `share` of those with any of the tags `groups`, all without."""
    chosen = not groups or not set(groups).isdisjoint(tags)
    return chosen and (share >= 1 or draw(f"release {version}", 0, device) < share)


def said(version: str, word: str, why: str = "") -> str:
    """Return what a status says of the release `version`: one of WORDS, and why."""
    return seen(f"{version} {word}: {why}" if why else f"{version} {word}")


def outcome(text: str) -> tuple[str, str, str]:
    """Return version, word and reason of what `said` has made; empty ones where it says nothing of that kind."""
    head, _, why = text.partition(": ")
    version, _, word = head.partition(" ")
    return (version, word, why) if word in WORDS and VERSION.fullmatch(version) else ("", "", "")
