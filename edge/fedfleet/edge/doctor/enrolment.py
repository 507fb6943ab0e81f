"""How the device is known to the fleet: by its certificate, or by a claim until it has one."""

from __future__ import annotations

from fedfleet.edge.doctor.device import NOT_YET, Device
from fedfleet.wire.doctor import credentials, pem
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine
from fedfleet.wire.errors import StoreError

NEITHER = Cause(
    "claim-missing", "there is neither a claim nor a certificate",
    "fedfleet enrol claim PKI --group GROUP --out claim.pem, and put it at {path}",
)  # fmt: skip
LAPSED = Cause(
    "claim-expired", "the claim has expired before it was used", "fedfleet enrol claim PKI: a new one, to {path}"
)
BROKEN = Cause(
    "claim-broken", "the claim is no claim file", "put the file that fedfleet enrol claim wrote at {path}, whole"
)
CLAIM = (NEITHER, LAPSED, BROKEN)


def claim(device: Device) -> Finding:
    """Whether a device that is not enrolled yet can be."""
    path = device.claim
    if path is None:
        return beside("no claim is set")
    if device.enrolled:
        return beside("the device has its certificate")
    if not path.exists():
        return failed(NEITHER, f"neither {path} nor {device.settings.broker.certificate} is there", path=path)
    if not pem.available():
        return credentials.WITHOUT
    return _read(device, str(path))


def certificate(device: Device) -> Finding:
    """Whether the device's own certificate is good."""
    return credentials.certificate(device.owner) if device.enrolled else beside(NOT_YET)


def _read(device: Device, path: str) -> Finding:
    try:
        found = pem.claimed(path)
    except StoreError as error:
        return failed(BROKEN, f"{path}: {error}", path=path)
    if found.ends < device.owner.now:
        return failed(LAPSED, f"{path} ended on {credentials.day(found.ends)}", path=path)
    return fine(f"{found.name}, until {credentials.day(found.ends)}")
