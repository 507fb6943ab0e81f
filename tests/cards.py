"""Small images shaped like Raspberry Pi OS, bundles and claims, made by the tests that need them."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Images = Callable[..., Path]
MIB = 2**20
BOOT, ROOT = 36, 4  # MiB; FAT32 takes no less
TOOLS = ("sfdisk", "mkfs.vfat", "mke2fs", "mcopy", "debugfs")
LACKS = next((f"{tool} is not installed" for tool in TOOLS if shutil.which(tool) is None), "")
needs_tools = pytest.mark.skipif(bool(LACKS), reason=LACKS)
CONSOLE = "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes rootwait"
CMDLINES = {
    "bookworm": f"{CONSOLE} quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n",
    "trixie": f"{CONSOLE} quiet splash resize\n",
}
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
MACHINES = {32: "armv7l", 64: "aarch64"}
SETTINGS = """device = "pump-1"
fleet = "pumps"
state = "/var/lib/fedfleet/state"

[enrol]
claim = "/var/lib/fedfleet/claim.pem"

[broker]
host = "broker.example"
port = 8883
tls = true
certificate = "/var/lib/fedfleet/state/identity.pem"
key = "/var/lib/fedfleet/state/identity.pem"
"""
STOCK = {
    "user-data": b"#cloud-config\n\n# hostname: raspberrypi\nssh_pwauth: false\n#runcmd:\n#- [ ls, -l, / ]\n",
    "network-config": b"network:\n  version: 2\n\n  ethernets:\n    eth0:\n      dhcp4: true\n      optional: true\n# wifis:\n",
    "meta-data": b"# dsmode\ndsmode: local\ninstance_id: rpios-image\n",
}


def elf(bits: int) -> bytes:
    """The head of a program for ARM."""
    return (
        b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9) + struct.pack("<HH", 3, 183 if bits == 64 else 40) + bytes(44)
    )


def boot_files(release: str, bits: int) -> dict[str, bytes]:
    """What the release has on its boot partition; 32 bits bring a 64-bit kernel as well."""
    kernels = ["kernel8.img"] + (["kernel.img", "kernel7.img", "kernel7l.img"] if bits == 32 else ["kernel_2712.img"])
    found = {name: name.encode() * 100 for name in [*kernels, "start4.elf", "overlays/vc4-kms-v3d.dtbo"]}
    found |= {"cmdline.txt": CMDLINES[release].encode(), "config.txt": b"[all]\narm_64bit=1\n"}
    if release == "trixie":
        found |= STOCK
    return found


def root_files(release: str, bits: int) -> dict[str, bytes]:
    """What the release has on its root partition, of what is looked at."""
    ident = "raspbian" if bits == 32 else "debian"
    told = f'PRETTY_NAME="{ident} {release}"\nVERSION_CODENAME={release}\nID={ident}\n'
    python = f"usr/bin/python{PYTHONS[release]}"
    return {"usr/lib/os-release": told.encode(), "usr/bin/dpkg": elf(bits), python: elf(bits)}


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def assemble(
    folder: Path, boot: dict[str, bytes], root: dict[str, bytes], boot_mib: int = BOOT, root_mib: int = ROOT
) -> Path:
    """Make an image: MBR, FAT32 `bootfs` at 1 MiB, ext4 `rootfs` behind it. Names say nothing of what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    disk, fat, ext = folder / "os.img", folder / "fat", folder / "ext"
    for path, size in ((disk, 1 + boot_mib + root_mib), (fat, boot_mib), (ext, root_mib)):
        with path.open("wb") as file:
            file.truncate(size * MIB)
    table = (
        f"label: dos\nstart=2048, size={boot_mib * 2048}, type=c, bootable\n"
        f"start={2048 + boot_mib * 2048}, size={root_mib * 2048}, type=83\n"
    )
    run("sfdisk", "-q", disk, given=table.encode())
    run("mkfs.vfat", "-F", "32", "-s", "1", "-n", "bootfs", fat)
    run("mcopy", "-s", "-i", fat, *lay(folder / "boot", boot).iterdir(), "::")
    run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", lay(folder / "root", root), ext)
    for path, seek in ((fat, 1), (ext, 1 + boot_mib)):
        run("dd", f"if={path}", f"of={disk}", "bs=1M", f"seek={seek}", "conv=notrunc,sparse", "status=none")
        path.unlink()
    return disk


def image(folder: Path, release: str = "bookworm", bits: int = 64) -> Path:
    """Make an image of a release."""
    return assemble(folder, boot_files(release, bits), root_files(release, bits))


def copy(source: Path, target: Path) -> Path:
    """Copy an image, holes as holes."""
    run("cp", "--sparse=always", source, target)
    return target


def run(*command: object, given: bytes = b"") -> bytes:
    """Run a command that must not fail; return what it prints."""
    done = subprocess.run([str(part) for part in command], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(disk: Path, name: str) -> bytes:
    """A file of an image's boot partition."""
    return run("mcopy", "-i", f"{disk}@@1M", f"::/{name}", "-")


def names(disk: Path) -> set[str]:
    """The files of an image's boot partition."""
    listed = run("mdir", "-/", "-b", "-i", f"{disk}@@1M", "::").decode().splitlines()
    return {line.removeprefix("::/") for line in listed if not line.endswith("/")}


def bundle(folder: Path, release: str = "bookworm", bits: int = 64, **more: bytes) -> Path:
    """A bundle of wheels that are none, for a kind of board."""
    wheels = {f"thing-1.0-{name}-none-any.whl": name.encode() * 1000 for name in ("one", "two")} | more
    listed = [
        {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in wheels.items()
    ]
    told = {"version": "0.1.0", "python": PYTHONS[release], "machine": MACHINES[bits], "wheels": listed}
    files = {
        "release.json": json.dumps(told).encode(),
        "install.sh": b"#!/bin/sh\necho installed\n",
        "launch": b"#!/bin/sh\n",
    }
    return lay(folder, files | {f"wheels/{name}": data for name, data in wheels.items()})


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, days: float
) -> bytes:
    """A certificate that lasts so many days from now."""
    now = datetime.now(UTC)
    common = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
    made = (
        x509.CertificateBuilder()
        .subject_name(common[0])
        .issuer_name(common[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=365))
        .not_valid_after(now + timedelta(days=days))
        .sign(by, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def claim(path: Path, fleet: str = "pumps", device: str = "", days: float = 30, stranger: bool = False) -> Path:
    """A claim file; with `stranger`, its key is not its certificate's."""
    authority, own, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    head = f"# fedfleet claim\n# fleet = {fleet}\n# group = line-3\n# broker = broker.example:8883\n"
    head += f"# device = {device}\n" if device else ""
    key = (other if stranger else own).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(
        head.encode()
        + certificate("claim-0123456789ab", own, fleet, authority, days)
        + certificate(fleet, authority, fleet, authority, 7000)
        + key
    )
    return path
