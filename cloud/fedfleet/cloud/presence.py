"""Which devices are there, from their retained births and the broker's last wills."""

from __future__ import annotations

from collections.abc import Collection, Container

from fedfleet.wire.calling import Ability, Needs
from fedfleet.wire.messages import Status

NOTHING = Ability()


class Presence:
    """The fleet as its statuses tell it. A will of an earlier start than the last birth is a latecomer and ignored.

    A device that is paused or asleep has not gone, but a round does not wait for it: its update counts if it comes in
    time, and it is waited for again once it says that it is ready. `declined` holds the newest round that a device will
    not contribute to, and why; `statuses` the last word of each device, `changed` who was heard of since someone who
    takes notes emptied it.
    """

    def __init__(self) -> None:
        self.devices: set[str] = set()
        self.declined: dict[str, tuple[int, str]] = {}
        self.statuses: dict[str, Status] = {}
        self.changed: set[str] = set()

    def see(self, device: str, status: Status | None) -> bool:
        """Take a status, None for a device that was removed; returns whether the device is there now."""
        known = self.statuses.get(device)
        if status is None:
            self.statuses.pop(device, None)
            self.changed.add(device)
            self.declined.pop(device, None)
            self.devices.discard(device)
        elif known is None or status.boot >= known.boot:
            self.statuses[device] = status
            self.changed.add(device)
            if status.declined:  # a later birth, after a lost link, does not say it again
                self.declined[device] = status.declined, status.reason
            if status.state in ("ready", "training"):
                self.devices.add(device)
            else:
                self.devices.discard(device)
        return device in self.devices

    def remove(self, devices: Container[str]) -> list[str]:
        """Forget those of `devices` that were ever seen; returns them."""
        gone = [device for device in self.statuses if device in devices]
        for device in gone:
            self.see(device, None)
        return gone

    def heard(self, device: str) -> None:
        """Take a sign of life that is no status."""
        if device in self.statuses:
            self.changed.add(device)

    def fits(self, device: str, needs: Needs) -> bool:
        """Whether `device` has what is needed, as far as it has told; one that has told nothing has nothing."""
        status = self.statuses.get(device)
        return needs.met(status.ability if status else NOTHING)

    def fit(self, needs: Needs) -> Collection[str]:
        """Return the devices that are there and have what is needed."""
        if needs == Needs():
            return self.devices
        return [device for device in self.devices if self.fits(device, needs)]
