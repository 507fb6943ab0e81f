"""Whether a request for a certificate is granted: the rules, without I/O, clock or cryptography.

A claim serves the first public key that asks by it, and no other; the same key is answered the same bytes again, so
that a device which is killed at any step just asks once more. A device whose certificate ends asks in its own name.
"""

from __future__ import annotations

from typing import NamedTuple

from fedfleet.cloud.identity.ledger import Certificate, Claim, Ledger
from fedfleet.wire.enrolment import CLAIM, reserved

MAX_LIVE = 4  # certificates of a device that hold at once: a device that renews for ever does not fill the ledger


class Asked(NamedTuple):
    """A request: who asked (by the topic) for which device and group, with whose `cn` and `key` in the signing request.

    `key` is the SHA-256 of the public key, in hex; the signature of the request has been checked.
    """

    fleet: str
    by: str
    device: str
    group: str
    cn: str
    key: str


class Decision(NamedTuple):
    """issued, pending or refused, and why; `again` is the certificate that was issued before, `group` of a new one."""

    outcome: str
    reason: str = ""
    group: str = ""
    again: Certificate | None = None


def decide(asked: Asked, claim: Claim | None, ledger: Ledger, now: float) -> Decision:
    """Return what becomes of a request; `claim` is the one that `asked.by` names, if there is such. Changes nothing."""
    if asked.cn != asked.device:
        return _no(f"the request is signed for {asked.cn[:36]!r}, not {asked.device}")
    if reserved(asked.fleet, asked.device):
        return _no(f"{asked.device} is a name that no device may have")
    if CLAIM.fullmatch(asked.by):
        return _by_claim(asked, claim, ledger, now)
    return _renewed(asked, ledger, now)


def _by_claim(asked: Asked, claim: Claim | None, ledger: Ledger, now: float) -> Decision:
    if claim is None:
        return _no("the claim is unknown; have a new one made")
    if text := _unfit(asked, claim, now):
        return _no(text)
    if known := ledger.certified(asked.key):
        return _again(asked, known, claim.id)
    if text := _shut(asked, claim, ledger, now):
        return _no(text)
    if claim.accepts or claim.state == "accepted" or asked.device in ledger.allowed():
        return Decision("issued", "", claim.group)
    return Decision("pending", "an operator must accept it: fedfleet enrol accept")


def _again(asked: Asked, known: Certificate, claim: str) -> Decision:
    """Return the certificate that this key has; a key is certified once, for one name, by one claim."""
    if (known.claim, known.name) != (claim, asked.device):
        return _no("this key was certified before; make a new one")
    return _no("the certificate was revoked") if known.revoked else Decision("issued", "", known.group, known)


def _shut(asked: Asked, claim: Claim, ledger: Ledger, now: float) -> str:
    """Return why nothing is issued though the claim fits; empty where that is not so."""
    if claim.id in ledger.denied():
        return "the claim was revoked"
    if claim.state == "refused":
        return claim.reason or "the operator has refused it"
    if ledger.live(asked.device, now):
        return f"{asked.device} has a certificate; revoke that first, or take another name"
    return ""


def _unfit(asked: Asked, claim: Claim, now: float) -> str:
    """Return why the claim is not for this request; empty where it is."""
    if claim.expires <= now:
        return "the claim has expired; have a new one made"
    if asked.group not in ("", claim.group):
        return f"the claim is for group {claim.group}, not {asked.group}"
    if claim.device not in ("", asked.device):
        return f"the claim is for device {claim.device}"
    if claim.key not in ("", asked.key) or claim.wants not in ("", asked.device):
        return "the claim has been used, by another key or name; have a new one made"
    return ""


def _renewed(asked: Asked, ledger: Ledger, now: float) -> Decision:
    if asked.by != asked.device:
        return _no(f"{asked.by} may not ask for {asked.device}")
    live = ledger.live(asked.device, now)
    if not live:
        return _no(f"{asked.device} has no certificate that holds; enrol it with a claim")
    if asked.group not in ("", live[-1].group):
        return _no(f"{asked.device} is of group {live[-1].group}, not {asked.group}; enrol it anew")
    if known := ledger.certified(asked.key):
        return _again(asked, known, known.claim)
    if len(live) >= MAX_LIVE:
        return _no(f"{asked.device} has {len(live)} certificates that hold, and asks for one more")
    return Decision("issued", "", live[-1].group)


def _no(reason: str) -> Decision:
    return Decision("refused", reason)
