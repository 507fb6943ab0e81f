"""Claims: what they are for, and what an operator says to the devices that ask by them."""

from __future__ import annotations

from typing import NamedTuple

from fedfleet.cloud.identity.ledger import Claim, Ledger
from fedfleet.wire.enrolment import CLAIM, reserved
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import SEEN
from fedfleet.wire.topics import NAME


class Terms(NamedTuple):
    """What a claim is for: a group, perhaps one device, so many days; with `accepts`, no operator is asked."""

    group: str
    device: str = ""
    days: float = 30.0
    accepts: bool = False


def check(terms: Terms, fleet: str) -> None:
    """Raise SettingsError for terms that cannot be."""
    if terms.device:
        require_device(fleet, terms.device)
    if not NAME.fullmatch(terms.group):
        raise SettingsError(f"group {terms.group[:48]!r} must be 1 to 36 characters of a-z, 0-9 and -")
    if not 0 < terms.days <= 3650:
        raise SettingsError("days must be above 0 and at most 3650")


def require_device(fleet: str, device: str) -> None:
    """Raise SettingsError where `device` is no name that a device may have."""
    if not NAME.fullmatch(device) or reserved(fleet, device):
        raise SettingsError(
            f"device {device[:48]!r} must be 1 to 36 characters of a-z, 0-9 and -, and no claim or cloud's own"
        )


def settle(ledger: Ledger, who: str, state: str, reason: str = "") -> Claim:
    """Accept or refuse the claim `who`, or the one by which the device `who` asks; returns it. Raises SettingsError."""
    if not SEEN.fullmatch(reason):
        raise SettingsError("the reason must be at most 200 printable characters")
    with ledger.transaction():
        found = _claim(ledger, who)
        if found.state == "issued":
            raise SettingsError(f"{found.id} has served {found.wants}; to shut that out: fedfleet pki revoke")
        ledger.settle(found.id, state, reason)
    return found


def _claim(ledger: Ledger, who: str) -> Claim:
    if CLAIM.fullmatch(who):
        if found := ledger.claim(who):
            return found
        raise SettingsError(f"{who} is no claim; `fedfleet enrol list` has them all")
    asking = [claim for claim in ledger.claims() if claim.wants == who and claim.state in ("pending", "accepted")]
    if len(asking) == 1:
        return asking[0]
    if asking:
        names = ", ".join(claim.id for claim in asking)
        raise SettingsError(f"{who} is asked for by {len(asking)} claims ({names}); compare their keys and name one")
    raise SettingsError(f"no device asks to be {who}; `fedfleet enrol list` has those that ask")
