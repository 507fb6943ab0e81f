"""A release that is there made the newest again, so that who has a later one goes back to it."""

from __future__ import annotations

from collections.abc import Sequence

from securesystemslib.signer import CryptoSigner

from fedfleet.cloud.releases.repository import Repository, next_serial
from fedfleet.wire.errors import SettingsError


def sign_again(repo: Repository, version: str, keys: Sequence[CryptoSigner]) -> str:
    """Give all files of `version` the highest serial, and return which signatures are missing. Raises SettingsError."""
    targets = repo.targets.signed
    serial = next_serial(targets)
    own = {path: file for path, file in targets.targets.items() if path.startswith(f"{version}/")}
    if not own:
        raise SettingsError(f"the repository has no version {version}")
    for file in own.values():
        custom = {**file.unrecognized_fields.get("custom", {}), "serial": serial}
        file.unrecognized_fields["custom"] = custom
    return repo.change(targets, keys)
