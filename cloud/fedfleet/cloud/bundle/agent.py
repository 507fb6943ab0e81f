"""The agent's own wheel: wire and edge alone, the same bytes from the same source every time (PEP 427)."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path

from fedfleet.cloud.bundle.parts import ROOMS, room
from fedfleet.wire.errors import StoreError

NAME = "fedfleet_agent"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can say
MODE = 0o100644 << 16
REQUIRES = ("numpy>=1.23", "paho-mqtt>=2.1")


def file_name(version: str) -> str:
    """Return the wheel's file name."""
    return f"{NAME}-{version}-py3-none-any.whl"


def wheel(version: str) -> bytes:
    """Return the wheel of the agent that is installed here. Raises SettingsError, StoreError."""
    files = {path: data for name in ROOMS for path, data in _files(name, room(name))}
    info = f"{NAME}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIRES)
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: fedfleet-agent\nVersion: {version}\nRequires-Python: >=3.11\n{requires}".encode()
    )
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: fedfleet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in sorted(files.items())]
    files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    return _zipped(files)


def _files(name: str, folder: Path) -> list[tuple[str, bytes]]:
    try:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return [(f"fedfleet/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes()) for path in paths]
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror}") from None


def _zipped(files: dict[str, bytes]) -> bytes:
    """Stored, not deflated: what a deflater makes of it depends on the zlib it was built with."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, EPOCH)
            entry.external_attr, entry.create_system = MODE, 3
            archive.writestr(entry, files[path])
    return packed.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
