"""How a device gets its certificate: it asks with a signing request, the desk answers with a chain, in one frame each.

The name that asks stands in the topic, where the broker's ACL vouches for it: a claim's at first, later the device's
own, which then asks for its next certificate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fedfleet.wire import frames
from fedfleet.wire.errors import FrameError
from fedfleet.wire.messages import SEEN, open_header
from fedfleet.wire.record import require
from fedfleet.wire.topics import NAME

OUTCOMES = ("issued", "pending", "refused")
ROLES = ("cloud", "enrol", "operator")
CLAIM = re.compile(r"claim-[0-9a-f]{12}")
BACKDATED = 365 * 86_400.0  # seconds before it was made that a certificate begins: boards without a clock are behind
MAX_REQUEST = 8 * 1024  # a request for an EC P-256 key has about 400 bytes
MAX_CHAIN = 64 * 1024


@dataclass(frozen=True)
class Enrol:
    """To the desk: `device` of `group` asks for a certificate by `csr`, PEM. Without a group: that of the claim."""

    device: str
    group: str = ""
    csr: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.device) is not None, "device must be 1 to 36 characters of a-z, 0-9 and -")
        named = not self.group or NAME.fullmatch(self.group) is not None
        require(named, "group must be 1 to 36 characters of a-z, 0-9 and -")


@dataclass(frozen=True)
class Enrolled:
    """To who asked: the certificate, its issuers behind it, in PEM, or why there is none (yet)."""

    outcome: str
    reason: str = ""
    chain: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        require(self.outcome in OUTCOMES, f"outcome must be one of {', '.join(OUTCOMES)}")
        require(SEEN.fullmatch(self.reason) is not None, "reason must be at most 200 printable characters")


def reserved(fleet: str, name: str) -> bool:
    """Whether `name` is one that no device of `fleet` may have: a claim's, or one of the cloud's own."""
    return name.startswith("claim-") or name in {f"{fleet}-{role}" for role in ROLES}


def pack_enrol(asked: Enrol) -> bytes:
    """Return the frame of a request."""
    return frames.pack({"kind": "enrol", "device": asked.device, "group": asked.group}, asked.csr)


def open_enrol(frame: bytes) -> Enrol:
    """Return the request in `frame`; raises FrameError."""
    header, body = frames.unpack(frame)
    if not 0 < len(body) <= MAX_REQUEST:
        raise FrameError(f"a request has 1 to {MAX_REQUEST} bytes, not {len(body)}")
    asked = open_header(Enrol, {**header, "csr": b""})
    return Enrol(asked.device, asked.group, body)


def pack_enrolled(answer: Enrolled) -> bytes:
    """Return the frame of an answer."""
    return frames.pack({"kind": "enrolled", "outcome": answer.outcome, "reason": answer.reason}, answer.chain)


def open_enrolled(frame: bytes) -> Enrolled:
    """Return the answer in `frame`; raises FrameError."""
    header, body = frames.unpack(frame)
    answer = open_header(Enrolled, {**header, "chain": b""})
    if len(body) > MAX_CHAIN or bool(body) != (answer.outcome == "issued"):
        raise FrameError("an answer has a certificate chain if it is issued, and none else")
    return Enrolled(answer.outcome, answer.reason, body)
