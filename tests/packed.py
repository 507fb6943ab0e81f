"""Small wheels for tests, and a lock that names them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path


def wheel(folder: Path, name: str, tag: str = "py3-none-any", version: str = "1.0", text: str = "x = 1\n") -> Path:
    """Make a wheel of one module in `folder`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def lock(path: Path, *wheels: Path, marker: str = "") -> Path:
    """Write the lock that names `wheels`, several of one package in one line, as pip's tools do."""
    packages: dict[str, list[Path]] = {}
    for wheel in wheels:
        packages.setdefault("==".join(wheel.name.split("-")[:2]), []).append(wheel)
    lines = list[str]()
    for package, files in packages.items():
        hashes = [f"    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
        lines.append(" \\\n".join([package + (f" ; {marker}" if marker else ""), *hashes]))
    path.write_text("\n".join(lines) + "\n")
    return path
