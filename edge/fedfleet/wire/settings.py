"""One settings file a process: TOML into one frozen tree; an unknown key is an error that names it."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import Mismatch, build, require

T = TypeVar("T")
MAX_FILE = 1024 * 1024
TRANSPORTS = ("tcp", "websockets")
FILES = ("ca", "certificate", "key")


@dataclass(frozen=True)
class Broker:
    """Where the broker is. The password is read from the environment variable `password_env`, never from the file.

    `mqtt = 3` for a broker that knows only MQTT 3.1.1; with 5, the other is tried when the broker says so itself.
    With `tls`, its certificate must come from `ca`, or from an authority of the system where that is empty, and name
    the host; `certificate` and `key` are this client's own. Files are relative to the settings file. `path` is for
    `transport = "websockets"`, which passes where a firewall lets nothing through but port 443.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    keepalive: int = 60
    username: str = ""
    password_env: str = ""
    mqtt: int = 5
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    transport: str = "tcp"
    path: str = "/mqtt"

    def __post_init__(self) -> None:
        require(bool(self.host), "host must not be empty")
        require(1 <= self.port <= 65535, "port must be 1 to 65535")
        require(5 <= self.keepalive <= 65535, "keepalive must be 5 to 65535 seconds")
        require(self.mqtt in (3, 5), "mqtt must be 5 or 3")
        require(self.transport in TRANSPORTS, f"transport must be {' or '.join(TRANSPORTS)}")
        require(self.path.startswith("/"), "path must begin with /")
        for name in FILES:
            require(self.tls or not getattr(self, name), f"{name} is of no use without tls = true")
        require(bool(self.certificate) == bool(self.key), "certificate and key belong together: set both or neither")

    @property
    def password(self) -> str | None:
        """The password, or None; raises SettingsError where the variable is named but not set."""
        if not self.password_env:
            return None
        if self.password_env not in os.environ:
            raise SettingsError(f"broker.password_env names {self.password_env}, which is not set in the environment")
        return os.environ[self.password_env]


def load(path: Path, cls: type[T]) -> T:
    """Return the settings in the TOML file `path`; raises SettingsError that names the file and the key."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise SettingsError(f"{path}: a settings file has at most {MAX_FILE} bytes")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None
    try:
        found: T = _anchored(build(cls, table, strict=True), path.resolve().parent)
    except Mismatch as error:
        raise SettingsError(f"{path}: {error}") from None
    return found


def parse_broker(address: str) -> Broker:
    """Return the broker at `host:port` (port 1883 where it is left out); raises SettingsError."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "1883")
    if not port.isdecimal() or not host:
        raise SettingsError(f"broker {address!r} must be HOST or HOST:PORT")
    try:
        return Broker(host=host, port=int(port))
    except Mismatch as error:
        raise SettingsError(f"broker {address!r}: {error}") from None


def _anchored(record: Any, folder: Path) -> Any:
    """Return `record` with the files of every broker in it relative to `folder`."""
    if isinstance(record, Broker):
        changed: dict[str, Any] = {name: str(folder / file) for name in FILES if (file := getattr(record, name))}
    else:
        parts = {field.name: getattr(record, field.name) for field in fields(record)}
        changed = {name: _anchored(part, folder) for name, part in parts.items() if is_dataclass(part)}
    return replace(record, **changed)
