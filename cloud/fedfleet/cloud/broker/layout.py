"""How a fleet's broker is laid out: its ports, and where its files lie for us and for itself."""

from __future__ import annotations

from dataclasses import dataclass

from fedfleet.wire.errors import SettingsError

SYNTAXES = ("2.0", "2.1")


@dataclass(frozen=True)
class Layout:
    """A broker of `fleet` whose files lie in the folder `at`, an absolute path on the broker's machine.

    No WebSocket where its port is 0. `plugin` is the path of mosquitto 2.1's plugin for access lists, of no use to 2.0.
    """

    fleet: str
    at: str
    port: int
    websockets: int = 0
    syntax: str = "2.0"
    plugin: str = ""

    def __post_init__(self) -> None:
        _require(self.syntax in SYNTAXES, f"--syntax must be {' or '.join(SYNTAXES)}")
        _require(1 <= self.port <= 65535, "--port must be 1 to 65535")
        _require(0 <= self.websockets <= 65535, "--websockets must be a port, 1 to 65535")
        _require(self.port != self.websockets, "--port and --websockets must be two ports")
        _require(self.at.startswith("/") and "\n" not in self.at, "--at must be an absolute path")


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise SettingsError(text)
