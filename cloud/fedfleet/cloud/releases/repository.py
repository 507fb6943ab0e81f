"""A repository of releases, signed as The Update Framework says (specification 1.0), by way of python-tuf.

What changes is staged until enough keys have signed it, wherever these are kept, and only then takes its place; who
reads the folder meanwhile finds whole old or whole new.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError, StoreError

DAYS = {"root": 365, "targets": 365, "snapshot": 30, "timestamp": 7}
ROLES = tuple(DAYS)
TEXT = JSONSerializer(compact=False)


def now() -> datetime:
    """Return the time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


class Repository:
    """The folder of a repository; see `published` for what is in it."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`. Raises StoreError where it holds no repository."""
        self.folder = folder
        self.metadata = folder / "metadata"
        self.root: Metadata[Root] = self._load(self._root_path(self._newest_root()))

    @staticmethod
    def init(folder: Path, signers: Mapping[str, Sequence[CryptoSigner]], thresholds: Mapping[str, int]) -> Repository:
        """Make a repository whose roles are signed by `signers`. Raises SettingsError, StoreError."""
        if any((folder / "metadata").glob("*")):
            raise SettingsError(f"{folder} holds a repository already")
        root = Root(version=1, expires=_expiry("root"), consistent_snapshot=True)
        for role, keys in signers.items():
            for key in keys:
                root.add_key(key.public_key, role)
            root.roles[role].threshold = thresholds.get(role, 1)
        try:
            (folder / "metadata").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}") from None
        known = [key for keys in signers.values() for key in keys]
        whole = Metadata(root)
        _sign(whole, known, root)
        files.write(folder / "metadata" / "1.root.json", whole.to_bytes(TEXT))
        found = Repository(folder)
        found.change(Targets(version=1, expires=_expiry("targets")), known)
        return found

    @property
    def targets(self) -> Metadata[Targets]:
        """The targets: those that lack signatures still, else those that count."""
        staged = self.folder / "staged" / "targets.json"
        if staged.exists():
            return self._load(staged)
        return self._load(self.metadata / f"{self._snapshot().signed.meta['targets.json'].version}.targets.json")

    def change(self, targets: Targets, keys: Sequence[CryptoSigner]) -> str:
        """Stage `targets` as the next version; see `settle` for what is returned."""
        targets.version = self._version("targets") + 1
        targets.expires = _expiry("targets")
        whole = Metadata(targets)
        _sign(whole, keys, self.root.signed)
        self._stage("targets", whole)
        return self.settle(keys)

    def rotate(self, role: str, new: Sequence[CryptoSigner], threshold: int, keys: Sequence[CryptoSigner]) -> str:
        """Stage a root by which only the keys `new` sign for `role`; see `settle` for what is returned."""
        root = self._load(self._root_path(self._newest_root())).signed
        assert isinstance(root, Root)
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for key in new:
            root.add_key(key.public_key, role)
        root.roles[role].threshold = threshold
        root.version += 1
        root.expires = _expiry("root")
        whole = Metadata(root)
        _sign(whole, [*keys, *new], self.root.signed, root)
        self._stage("root", whole)
        return self.settle([*keys, *new])

    def sign(self, keys: Sequence[CryptoSigner]) -> str:
        """Add the signatures of `keys` to what is staged; see `settle` for what is returned."""
        for role in ("root", "targets"):
            path = self.folder / "staged" / f"{role}.json"
            if path.exists():
                whole = self._load(path)
                above = (self.root.signed, whole.signed) if isinstance(whole.signed, Root) else (self.root.signed,)
                _sign(whole, keys, *above, append=True)
                self._stage(role, whole)
        return self.settle(keys)

    def settle(self, keys: Sequence[CryptoSigner]) -> str:
        """Put what has enough signatures in its place, and sign anew what a new root has no trust in any more.

        Returns what is missing still. Raises SettingsError where `keys` lack those of snapshot or timestamp.
        """
        staged = self.folder / "staged" / "targets.json"
        if missing := self._settle_root():
            return missing
        whole, root = self.targets, self.root.signed
        if missing := _lacks("targets", whole, root):
            return missing if staged.exists() else self.change(whole.signed, keys)
        if staged.exists():
            files.write(self.metadata / f"{whole.signed.version}.targets.json", whole.to_bytes(TEXT))
            self.refresh(keys, whole.signed.version)
            staged.unlink()
        elif _lacks("snapshot", self._snapshot(), root) or _lacks("timestamp", self._timestamp(), root):
            self.refresh(keys)
        return ""

    def refresh(self, keys: Sequence[CryptoSigner], targets: int = 0) -> None:
        """Make a new snapshot, of the targets of version `targets` or those it had, and a new timestamp.

        Raises SettingsError where a key is missing.
        """
        number = targets or self._snapshot().signed.meta["targets.json"].version
        meta = {"targets.json": self._described(f"{number}.targets.json", number)}
        snapshot = Snapshot(self._version("snapshot") + 1, expires=_expiry("snapshot"), meta=meta)
        name = f"{snapshot.version}.snapshot.json"
        timestamp = Timestamp(self._version("timestamp") + 1, expires=_expiry("timestamp"))
        timestamp.unrecognized_fields["made"] = f"{now():%Y-%m-%dT%H:%M:%SZ}"
        first, last = Metadata(snapshot), Metadata(timestamp)
        _sign(first, keys, self.root.signed)
        _sign(last, keys, self.root.signed)
        if missing := _lacks("snapshot", first, self.root.signed) or _lacks("timestamp", last, self.root.signed):
            raise SettingsError(f"{missing}; name the folder that has them with --keys")
        files.write(self.metadata / name, first.to_bytes(TEXT))
        timestamp.snapshot_meta = self._described(name, snapshot.version)
        _sign(last, keys, self.root.signed)
        files.write(self.metadata / "timestamp.json", last.to_bytes(TEXT))  # at once all is new

    def keep(self, path: str, source: Path) -> TargetFile:
        """Copy a file under the name it has as a target. Raises StoreError."""
        found = TargetFile.from_file(path, str(source))
        place = self.folder / "targets" / path
        place = place.with_name(f"{found.hashes['sha256']}.{place.name}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                temporary = place.with_name(f".{place.name}.tmp")
                shutil.copyfile(source, temporary)
                files.settle(temporary, place)
        except OSError as error:
            raise StoreError(f"{place} cannot be written: {error.strerror}") from None
        return found

    def _settle_root(self) -> str:
        staged = self.folder / "staged" / "root.json"
        if not staged.exists():
            return ""
        whole = self._load(staged)
        missing = _lacks("root", whole, self.root.signed) or _lacks("root", whole, whole.signed)
        if not missing:
            files.write(self._root_path(whole.signed.version), whole.to_bytes(TEXT))
            staged.unlink()
            self.root = whole
        return missing

    def _described(self, name: str, version: int) -> MetaFile:
        return MetaFile.from_data(version, (self.metadata / name).read_bytes(), ["sha256"])

    def _snapshot(self) -> Metadata[Snapshot]:
        return self._load(self.metadata / f"{self._timestamp().signed.snapshot_meta.version}.snapshot.json")

    def _timestamp(self) -> Metadata[Timestamp]:
        return self._load(self.metadata / "timestamp.json")

    def _version(self, role: str) -> int:
        """The newest version of a role that was ever signed; 0 for none. A number is never used twice."""
        if role == "timestamp":
            path = self.metadata / "timestamp.json"
            return int(self._load(path).signed.version) if path.exists() else 0
        return max((_number(path) for path in self.metadata.glob(f"*.{role}.json")), default=0)

    def _newest_root(self) -> int:
        found = max((_number(path) for path in self.metadata.glob("*.root.json")), default=0)
        if not found:
            raise StoreError(f"{self.folder} holds no repository; make one with fedfleet release init")
        return found

    def _root_path(self, version: int) -> Path:
        return self.metadata / f"{version}.root.json"

    def _stage(self, role: str, whole: Metadata[Any]) -> None:
        (self.folder / "staged").mkdir(exist_ok=True)
        files.write(self.folder / "staged" / f"{role}.json", whole.to_bytes(TEXT))

    def _load(self, path: Path) -> Metadata[Any]:
        try:
            return Metadata.from_file(str(path))
        except (OSError, DownloadError, DeserializationError, RepositoryError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from None


def next_serial(targets: Targets) -> int:
    """Return the serial of what is added next, above those of all releases that are listed."""
    listed = targets.targets.values()
    return max((file.unrecognized_fields.get("custom", {}).get("serial", 0) for file in listed), default=0) + 1


def _sign(whole: Metadata[Any], keys: Iterable[CryptoSigner], *by: Root, append: bool = False) -> None:
    """Sign with those of `keys` that one of the roots `by` trusts for this role."""
    trusted = {keyid for root in by for keyid in root.roles[whole.signed.type].keyids}
    if not append:
        whole.signatures.clear()
    for key in keys:
        if key.public_key.keyid in trusted:
            whole.sign(key, append=True)


def _lacks(role: str, whole: Metadata[Any], root: Root) -> str:
    """Say which signatures are missing; empty where there are enough."""
    try:
        root.verify_delegate(role, whole.signed_bytes, whole.signatures)
    except UnsignedMetadataError:
        good = len(root.get_verification_result(role, whole.signed_bytes, whole.signatures).signed)
        return f"{role}.json {whole.signed.version} has {good} of {root.roles[role].threshold} signatures that it needs"
    return ""


def _number(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _expiry(role: str) -> datetime:
    return now() + timedelta(days=DAYS[role])
