"""Which devices are there, from their retained births and the broker's last wills."""

from __future__ import annotations

from collections.abc import Collection

from fedfleet.wire.calling import Ability, Needs
from fedfleet.wire.messages import Status

NOTHING = Ability()


class Presence:
    """The fleet as its statuses tell it. A will of an earlier start than the last birth is a latecomer and ignored.

    A device that is paused or asleep has not gone, but a round does not wait for it: its update counts if it comes in
    time, and it is waited for again once it says that it is ready. `declined` holds the newest round that a device will
    not contribute to, and why; `abilities` what it can do, also of one that is not there.
    """

    def __init__(self) -> None:
        self.devices: set[str] = set()
        self.declined: dict[str, tuple[int, str]] = {}
        self.abilities: dict[str, Ability] = {}
        self._boots: dict[str, int] = {}

    def see(self, device: str, status: Status | None) -> bool:
        """Take a status, None for a device that was removed; returns whether the device is there now."""
        if status is None:
            self._boots.pop(device, None)
            self.declined.pop(device, None)
            self.abilities.pop(device, None)
            self.devices.discard(device)
        elif status.boot >= self._boots.get(device, 0):
            self._boots[device] = status.boot
            self.abilities[device] = status.ability
            if status.declined:  # a later birth, after a lost link, does not say it again
                self.declined[device] = status.declined, status.reason
            if status.state in ("ready", "training"):
                self.devices.add(device)
            else:
                self.devices.discard(device)
        return device in self.devices

    def fits(self, device: str, needs: Needs) -> bool:
        """Whether `device` has what is needed, as far as it has told; one that has told nothing has nothing."""
        return needs.met(self.abilities.get(device, NOTHING))

    def fit(self, needs: Needs) -> Collection[str]:
        """Return the devices that are there and have what is needed."""
        if needs == Needs():
            return self.devices
        return [device for device in self.devices if self.fits(device, needs)]
