"""From a blank card to a training device, without a hand on it: `python -m qemu.prove [--release trixie] [FOLDER]`.

An image shaped like Raspberry Pi OS is flashed by `fedfleet flash`, and booted by QEMU as a 64-bit ARM board. Nobody logs
in: the first boot installs the agent, which asks for its certificate by the claim on the card and contributes to rounds
beside two native devices. Then its power is cut, then its network; each time it goes on by itself, as the same device.

Exit code 0 where all of that is so, 1 where it is not, 2 with one line where this machine lacks something. FOLDER keeps
the card and all logs; they are thrown away without.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from arm import roots
from processes import until
from qemu import card, cloud, image
from qemu.cloud import GUEST, Cloud
from qemu.image import Release
from qemu.machine import Board, Stuck

from fedfleet.wire.errors import FedfleetError

CACHE = roots.ROOT / ".board"
STATE = "/var/lib/fedfleet"
INBOX = "fedfleet/inbox/digits.npz"
UNIT = "/etc/systemd/system/fedfleet-agent.service"
EXPOSURE = 2.0  # of 10, by `systemd-analyze security`; a unit without a sandbox has 9.6
ROUNDS = 3
PATIENCE = 600.0
FED = 200.0  # seconds; the agent feeds its watchdog every 45
ABSENCE = 300.0


class Wrong(Exception):
    """Something that a board must not be, or not do, in one line."""


def main() -> int:
    """Prove it."""
    parser = argparse.ArgumentParser("qemu.prove", description="A card that is flashed becomes a device that trains.")
    parser.add_argument("--release", choices=image.RELEASES, default="bookworm")
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="where card and logs are kept")
    asked = parser.parse_args()
    release = image.RELEASES[asked.release]
    try:
        image.check(image.built(release, CACHE).is_dir(), os.geteuid() == 0)
        with ExitStack() as stack:
            folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            figures = prove(release, folder)
    except roots.Missing as missing:
        print(f"test-board cannot run: {missing}")
        return 2
    except (Wrong, Stuck, cloud.Failed, card.Unreadable, FedfleetError) as wrong:
        print(f"{wrong}\nresult board=wrong release={asked.release}")
        return 1
    print(
        f"result board=alike {' '.join(f'{k}={v}' for k, v in figures.items())} seconds={time.monotonic() - began:.0f}"
    )
    return 0


def prove(release: Release, folder: Path) -> dict[str, object]:
    """Do all of it in `folder`; returns what was measured. Raises Missing, Wrong, Stuck, Failed, Unreadable."""
    figures = dict[str, object]()
    with step(figures, "image_s", "the image is there"):
        found = image.image(release, CACHE)
    with Cloud(folder) as fleet:
        with step(figures, "flash_s", "authority, model and card are made"):
            mine, *others = fleet.prepare()
            disk = flashed(fleet, release, found.disk, folder)
            cloud.save(mine, folder / "digits.npz")
            card.put(disk, folder / "digits.npz", INBOX)
            require(
                card.secrets(disk) == ["fedfleet/claim.pem"], "the flashed card must hold the claim's key, and no other"
            )
        with Board(found, disk, folder) as board:
            fleet.start(others)
            first_boot(fleet, board, figures)
            cuts(fleet, board, figures)
            until(lambda: len({each["fed"] for each in board.reports()} - {"0"}) > 1, FED)
            watched(board)
            board.off()
        left(disk, figures)
    figures["boots"] = board.starts
    return figures


def flashed(fleet: Cloud, release: Release, released: Path, folder: Path) -> Path:
    """Return a card with agent, settings and claim on it, made by the operator's own commands."""
    settings = fleet.settings(
        GUEST, cloud.SEEN_BY_GUEST, f"{STATE}/state", f"{STATE}/claim.pem", "/boot/firmware/fedfleet/inbox"
    )
    (folder / "agent.toml").write_text(settings)
    claim = fleet.claim(GUEST, folder / "claim.pem")
    cloud.fedfleet("bundle", "--board", release.board, "--out", folder / "bundle")
    disk = folder / "card.img"
    brought = (
        "--bundle",
        folder / "bundle",
        "--settings",
        folder / "agent.toml",
        "--claim",
        claim,
        "--hostname",
        GUEST,
    )
    cloud.fedfleet("flash", "--image", released, "--out", disk, *brought)
    require(len(card.cmdline(disk).splitlines()) == 1, "cmdline.txt must stay a single line")
    return disk


def first_boot(fleet: Cloud, board: Board, figures: dict[str, object]) -> None:
    """From power on to updates that are counted."""
    with step(figures, "enrolled_s", "the card was put in; the device has its certificate, and nobody has logged in"):
        board.first_boot()
        board.says("has a certificate", PATIENCE)
    with step(figures, "rounds_s", f"{ROUNDS} of its updates are counted beside those of native devices"):
        fleet.counts(GUEST, ROUNDS, PATIENCE)
    require(fleet.counted(cloud.NATIVE[0]) >= ROUNDS, "the native devices must be counted too")


def cuts(fleet: Cloud, board: Board, figures: dict[str, object]) -> None:
    """Its power is cut, then its network; each time it is the same device, and counts again."""
    with step(figures, "power_cut_s", "its power was cut; the same device counts again"):
        board.cut()
        require(fleet.missed(GUEST, ABSENCE), "the aggregator must be told that the device is lost")
        board.power()
        fleet.counts(GUEST, ROUNDS, PATIENCE)
    require(fleet.certificates(GUEST) == 1, "the device must go on with the certificate that it had")
    with step(figures, "link_cut_s", "its network was cut; it counts again"):
        board.plug(False)
        require(fleet.missed(GUEST, ABSENCE), "the aggregator must be told that the device is out of reach")
        board.plug(True)
        fleet.counts(GUEST, ROUNDS, PATIENCE)


def watched(board: Board) -> None:
    """The agent's process is shut in as its unit says, and has fed the watchdog since it was started."""
    reports = [each for each in board.reports() if each["fed"] != "0"]
    require(bool(reports), "the board has said nothing of an agent that feeds the watchdog")
    first, last = reports[0], reports[-1]
    require(last["active"] == "active", f"the unit must be active: {last}")
    require(
        last["pid"] == first["pid"] and last["restarts"] == "0", f"the agent must have run through: {first}, {last}"
    )
    require(int(last["fed"]) > int(first["fed"]), f"the watchdog must be fed: {first}, {last}")
    require(int(last["uid"]) > 0, "the agent must not be root")
    shut_in = (last["seccomp"], last["nonewprivs"], int(last["capabilities"], 16))
    require(shut_in == ("2", "1", 0), f"seccomp, no new privileges and capabilities must be 2, 1 and none: {shut_in}")


def left(disk: Path, figures: dict[str, object]) -> None:
    """What is on the card that is taken out afterwards."""
    require(card.secrets(disk) == [], f"no private key may stay on the boot partition: {card.secrets(disk)}")
    require(card.raw_secrets(disk) == 0, "the claim's key must have been overwritten where it lay, not just removed")
    unit = disk.parent / "fedfleet-agent.service"
    unit.write_text(card.of_root(disk, UNIT))
    figures["exposure"] = exposure(unit)
    require(exposure(unit) <= EXPOSURE, f"the installed unit is exposed by {exposure(unit)}, more than {EXPOSURE}")


def exposure(unit: Path) -> float:
    """How exposed a unit is, of 10, by `systemd-analyze security`; raises Wrong."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if "exposure level" not in said.stdout:
        raise Wrong(f"systemd-analyze has no word on {unit.name}: {said.stderr.strip()[-200:]}")
    return float(said.stdout.rpartition(":")[2].split()[0])


def require(holds: bool, otherwise: str) -> None:
    """Raises Wrong, which says `otherwise`, unless `holds`."""
    if not holds:
        raise Wrong(otherwise)


@contextmanager
def step(figures: dict[str, object], name: str, done: str) -> Iterator[None]:
    """Note how long the block took, and say what is done when it is."""
    began = time.monotonic()
    yield
    figures[name] = round(time.monotonic() - began)
    print(f"{done} ({figures[name]} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
