"""Everything fedfleet raises on purpose; foreign errors are turned into one of these at the border.

FedfleetError
├── FrameError      bytes that are not one of our frames or messages   (the peer's fault: count it, drop it)
├── BusDown         the broker is out of reach or refused us           (wait and try again, or check the address)
├── TooLarge        a message that the broker does not take            (it was not sent; raise the broker's limit)
├── SettingsError   a settings file or a command's option is wrong     (the owner's fault: names the key)
├── DataError       examples that cannot be trained on                 (the owner's fault: names file and column)
├── ModelError      a model that cannot become a device program        (the owner's fault: names the layer)
├── ProgramError    a device program that does not load or run         (the device says so and stays up)
├── ReleaseError    a release of the agent that is not installed       (the device says so and goes on training)
├── WorkerLost      a process that trained with this one has gone      (start it again, and all go on from a backup)
└── StoreError      state on disk that cannot be used                  (names the path; nothing was overwritten)

A command that ends in one of these prints its one line and exits with 2; anything else is our own fault and exits
with 1.
"""

from __future__ import annotations


class FedfleetError(Exception):
    """Base of all errors that fedfleet raises on purpose; its text is one line that says what to do."""


class FrameError(FedfleetError):
    """Bytes that are not one of our frames, or a header that is not one of our messages."""


class BusDown(FedfleetError):
    """The broker cannot be reached, or it refused the connection."""


class TooLarge(FedfleetError):
    """A message larger than the broker's Maximum Packet Size; it was not sent."""


class SettingsError(FedfleetError):
    """A setting that is unknown, missing, of the wrong type or out of range."""


class DataError(FedfleetError):
    """Examples that are missing, malformed or do not fit the model."""


class ModelError(FedfleetError):
    """A model that cannot be compiled into a device program."""


class ProgramError(FedfleetError):
    """A device program that the installed runtime cannot load or run."""


class ReleaseError(FedfleetError):
    """A release that is not signed as it must be, not for this device, or that cannot be installed."""


class WorkerLost(FedfleetError):
    """One of the processes that train together has gone, or could not be joined."""


class StoreError(FedfleetError):
    """State on disk that is damaged, full, or written by a newer version."""
