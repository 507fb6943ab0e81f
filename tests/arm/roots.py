"""A folder that looks like a board's root: Debian's Python and libraries for its processor, and the runtime of our lock.

Nothing is installed and no right of root's is needed: apt, with a state of its own, resolves and fetches the packages for
the other processor from wherever this machine's apt gets its own, and dpkg-deb unpacks them; pip fetches wheels for
another platform. QEMU's user mode then looks every path up in that folder first.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
NETWORK = "try again when the network is up"
PYTHON = "3.11"
# cpuinfo, which XNNPACK asks, ends the process when an aarch64 program reads an x86 processor's description
CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: {architecture}
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3
"""


class Missing(Exception):
    """What this machine lacks for running a board's programs, in one line that says how to get it."""


@dataclass(frozen=True)
class Board:
    """A processor: its names at QEMU, at Debian and in wheels, and where its Python packages come from."""

    machine: str
    qemu: str
    cpu: str
    debian: str
    triplet: str
    packages: tuple[str, ...]
    lock: str
    wheels: tuple[str, ...]
    platforms: tuple[str, ...]
    cpuinfo: str


BOARDS = (
    Board(
        "aarch64",
        "qemu-aarch64-static",
        "cortex-a72",
        "arm64",
        "aarch64-linux-gnu",
        ("python3", "libstdc++6"),
        "edge/lock.txt",
        ("ai-edge-litert", "backports-strenum", "flatbuffers", "ml-dtypes", "numpy", "protobuf", "tqdm", "typing-extensions"),
        ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64"),
        CPUINFO.format(features="fp asimd evtstrm crc32 cpuid", architecture=8, part="0xd08"),
    ),
    Board(
        "armv7l",
        "qemu-arm-static",
        "cortex-a7",
        "armhf",
        "arm-linux-gnueabihf",
        ("python3", "libstdc++6", "python3-numpy"),  # there is no wheel of NumPy for it
        "edge/lock-32.txt",
        ("tflite-runtime",),
        ("manylinux_2_34_armv7l",),
        CPUINFO.format(features="half thumb fastmult vfp edsp neon vfpv3 vfpv4 idiva idivt", architecture=7, part="0xc07"),
    ),
)  # fmt: skip


def check() -> None:
    """Raises Missing where a tool is not there."""
    tools = {**{board.qemu: "qemu-user-static" for board in BOARDS}, "apt-get": "apt", "dpkg-deb": "dpkg"}
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        packages = " ".join(sorted({tools[tool] for tool in absent}))
        raise Missing(f"{', '.join(absent)} not found; on Debian 12, as root: apt-get install {packages}")


def root(board: Board, folder: Path) -> Path:
    """Return the board's root below `folder`, built if it is not there or not of these packages; raises Missing."""
    lock = (ROOT / board.lock).read_text()
    name = hashlib.sha256(f"{board}{lock}".encode()).hexdigest()[:12]
    done = folder / f"{board.machine}-{name}"
    if done.is_dir():
        return done
    for old in folder.glob(f"{board.machine}-*"):
        shutil.rmtree(old)
    building = folder / f"{board.machine}-unfinished"
    building.mkdir(parents=True)
    state = folder / f"{board.machine}-apt"
    for package in fetched(board.debian, board.packages, state):
        run(["dpkg-deb", "--extract", str(package), str(building)], package.name)
    shutil.rmtree(state)
    if not (building / "usr" / "bin" / f"python{PYTHON}").exists():
        raise Missing(f"the packages that apt knows have no Python {PYTHON}; use a machine with Debian 12")
    _install(board, pinned(lock, board.wheels), building)
    (building / "proc").mkdir()
    (building / "proc" / "cpuinfo").write_text(board.cpuinfo)
    cores = building / "sys" / "devices" / "system" / "cpu"
    cores.mkdir(parents=True)
    for known in ("possible", "present"):
        (cores / known).write_text("0\n")
    building.rename(done)
    return done


def fetched(architecture: str, packages: Sequence[str], state: Path) -> list[Path]:
    """Return Debian's `packages` for another processor, with all they depend on; raises Missing."""
    for below in ("lists/partial", "cache/archives/partial"):
        (state / below).mkdir(parents=True, exist_ok=True)
    (state / "status").write_text("")
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dpkg::Use-Pty": "0",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    with suppress(Missing):  # a list that cannot be had may be one that is not needed: the next command knows
        run([*apt, "update"], "Debian's lists of packages")
    install = [*apt, "install", "--yes", "--no-install-recommends", "--download-only", *packages]
    run(install, f"Debian's packages for {architecture}")
    return sorted((state / "cache" / "archives").glob("*.deb"))


def pinned(lock: str, wheels: tuple[str, ...]) -> str:
    """The lines of a lock for `wheels` alone, without their conditions: pip would hold those against this machine."""
    entries = re.split(r"\n(?=\S)", lock)
    named = [entry for entry in entries if entry.partition("==")[0] in wheels and ">= '3.12'" not in entry]
    return "\n".join(re.sub(r" ; [^\\]*", " ", entry) for entry in named)


def _install(board: Board, pins: str, to: Path) -> None:
    wanted = to / "wheels.txt"
    wanted.write_text(pins)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    target = ["--target", str(to / "wheels"), "--python-version", PYTHON, "--implementation", "cp"]
    platforms = [f"--platform={platform}" for platform in board.platforms]
    command = [sys.executable, "-m", "pip", "install", *options, *target, *platforms, "-r", str(wanted)]
    run(command, f"wheels for {board.machine}")


def run(command: list[str], what: str, patience: float = PATIENCE, remedy: str = NETWORK) -> None:
    """Run what is to succeed within so many seconds; raises Missing with its last words and the remedy."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise Missing(f"{what} did not come within {patience:g} s; {remedy}") from None
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise Missing(f"{what} could not be had: {last[:200]}; {remedy}")


def command(board: Board, root: Path, *arguments: str) -> list[str]:
    """What runs the board's Python, which finds NumPy, the runtime and `fedfleet.edge`."""
    libraries = root / "usr" / "lib" / board.triplet
    loaded = [libraries / "blas", libraries / "lapack", libraries, root / "lib" / board.triplet]
    path = [root / "wheels", root / "usr" / "lib" / "python3" / "dist-packages", ROOT / "edge"]
    variables = {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, loaded)),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    given = [word for name, value in variables.items() for word in ("-E", f"{name}={value}")]
    python = str(root / "usr" / "bin" / f"python{PYTHON}")
    return [board.qemu, "-cpu", board.cpu, "-L", str(root), *given, python, *arguments]
