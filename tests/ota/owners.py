"""Those who sign releases: the fleet's owner, and whoever has got hold of some of the owner's keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata
from tuf.api.serialization.json import JSONSerializer

from fedfleet.cloud.releases import bundles, keys
from fedfleet.cloud.releases.published import metadata, roots
from fedfleet.cloud.releases.repository import Repository, now

ROLES = {"root": 2, "targets": 1, "snapshot": 1, "timestamp": 1}


class Owner:
    """A repository, and the folder of keys."""

    def __init__(self, folder: Path, counts: dict[str, int] | None = None, **thresholds: int) -> None:
        """Make both; 2 of 2 keys must sign root unless `thresholds` say otherwise."""
        self.repo, self.keys = folder / "repo", folder / "keys"
        made = {role: keys.make(self.keys, role, count) for role, count in {**ROLES, **(counts or {})}.items()}
        Repository.init(self.repo, made, {"root": 2, **thresholds})

    def release(self, folder: Path) -> None:
        """Sign a bundle as a release."""
        _, missing = bundles.add(Repository(self.repo), folder, keys.load(self.keys))
        assert not missing

    def refresh(self) -> None:
        """Sign a new snapshot and timestamp."""
        Repository(self.repo).refresh(keys.load(self.keys))

    def rotate(self, role: str) -> None:
        """Change the keys of a role, for as many new ones."""
        found = Repository(self.repo)
        known, wanted = keys.load(self.keys), found.root.signed.roles[role]
        new = keys.make(self.keys, role, len(wanted.keyids))
        assert found.rotate(role, new, wanted.threshold, known) == ""

    def signers(self, *names: str) -> list[CryptoSigner]:
        """The keys of those names, such as root-1: what a thief has."""
        found = {path.stem: key for path, key in zip(sorted(self.keys.glob("*.pem")), keys.load(self.keys))}
        return [found[name] for name in names]

    def anchor(self) -> bytes:
        """The root metadata that boards are given."""
        return (self.repo / "metadata" / "1.root.json").read_bytes()

    def roots(self, first: int = 2) -> bytes:
        """All root metadata from a version on, as a message has it."""
        return chain(path.read_bytes() for path in roots(self.repo)[first - 1 :])

    def bytes(self, role: str) -> bytes:
        """The newest metadata of a role."""
        return metadata(self.repo)[role].read_bytes()


def chain(found: Iterable[bytes]) -> bytes:
    """Return root metadata as a message has it."""
    return json.dumps([json.loads(each) for each in found]).encode()


def altered(data: bytes, change: Callable[[Any], object], signers: Sequence[CryptoSigner]) -> bytes:
    """Return metadata with a change to what is signed, signed by `signers` instead."""
    whole: Metadata[Any] = Metadata.from_bytes(data)
    change(whole.signed)
    whole.signatures.clear()
    for signer in signers:
        whole.sign(signer, append=True)
    return whole.to_bytes(JSONSerializer())


def expired(signed: Any) -> None:
    """Let metadata have expired an hour ago."""
    signed.expires = now() - timedelta(hours=1)
