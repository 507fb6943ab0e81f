"""A fleet of devices that do with a release what agents do: take it if called, try it, keep it or go back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from fedfleet.cloud.rollout.course import Handed, Report
from fedfleet.wire.messages import draw

OLD, NEW = "0.1.0", "0.2.0"


@dataclass
class Board:
    """One device; a step takes it from having heard of a release to trying it, and from there to its end."""

    name: str
    tags: tuple[str, ...]
    bad: tuple[str, ...] = ()
    version: str = OLD
    word: str = ""
    of: str = ""
    why: str = ""
    serials: dict[str, int] = field(default_factory=dict)

    def step(self, handed: Handed | None) -> None:
        if self.word == "trial":
            failed = self.of in self.bad
            self.version, self.word = (OLD, "back") if failed else (self.of, "good")
            self.why = "it cannot train" if failed else ""
        elif handed is not None and self.version != handed.version and self._called(handed):
            self._try(handed.version)

    def _try(self, version: str) -> None:
        older = self.serials.get(version, 1) <= self.serials.get(self.version, 0)
        if older:
            self.of, self.word, self.why = version, "refused", f"it is older than {self.version}"
        elif (self.of, self.word) != (version, "back"):  # what has failed here is not tried again
            self.version, self.of, self.word, self.why = version, version, "trial", ""

    def report(self, version: str) -> Report:
        """What the cloud knows of it, where it asks for `version`."""
        told = self.of == version
        return Report(self.tags, self.version, self.word if told else "", self.why if told else "")

    def _called(self, handed: Handed) -> bool:
        chosen = not handed.tags or not set(handed.tags).isdisjoint(self.tags)
        return chosen and (handed.share >= 1 or draw(f"release {handed.version}", 0, self.name) < handed.share)


def fleet(groups: int = 5, each: int = 10, *, bad_share: float = 0.0) -> list[Board]:
    """Devices in groups g1, g2, ...; on so large a share of each group the new version fails."""
    failing = round(bad_share * each)
    return [
        Board(f"d{group}-{number}", (f"g{group}",), (NEW,) if number < failing else ())
        for group in range(1, groups + 1)
        for number in range(each)
    ]


def bundle(folder: Path, version: str) -> Path:
    """A bundle of one wheel that is none: of what a release is made does not matter here."""
    folder.mkdir(parents=True)
    name, data = f"thing-{version}-py3-none-any.whl", version.encode()
    (folder / "wheels").mkdir()
    (folder / "wheels" / name).write_bytes(data)
    wheel = {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    said = {"version": version, "python": "3.11", "machine": "aarch64", "wheels": [wheel]}
    (folder / "release.json").write_text(json.dumps(said))
    return folder
