"""A board: QEMU's, with the card in it. Power on, power cut, the network's plug, and what it says on its serial line."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from processes import until
from qemu import card
from qemu.image import Image

RESTART = 240.0  # seconds for one boot that ends in a restart, on a machine that does much else
BEHIND = timedelta(days=150)  # by how much its clock is: a Raspberry Pi has none that runs without power
REPORT = re.compile(r"report (pid=.*)")


class Stuck(Exception):
    """A board that does not go on, with the last it said."""


class Board:
    """One board and its card; closed, it has no power."""

    def __init__(self, image: Image, disk: Path, folder: Path) -> None:
        """A board with the card `disk`; its console's log is kept in `folder`."""
        self.image, self.disk = image, disk
        self.console = folder / "console.log"
        self._qmp = folder / "qmp"
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cut()

    @property
    def pid(self) -> int:
        """Its process's; it must have been switched on."""
        assert self._process
        return self._process.pid

    def power(self) -> None:
        """Switch it on, with the command line that its card has now."""
        self.starts += 1
        line = card.adapted(card.cmdline(self.disk))
        with self.console.open("a") as console:
            console.write(f"\n--- start {self.starts}: {line}\n")
        self._qmp.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command(line), stdin=subprocess.DEVNULL)
        if not until(self._qmp.exists):
            raise Stuck(f"QEMU did not start: {' '.join(self._command(line))}")

    def first_boot(self, patience: float = RESTART) -> None:
        """Switch it on, and again each time that it restarts itself, up to the start that stays; raises Stuck."""
        self.power()
        while card.is_first(card.cmdline(self.disk)):
            self._ended(patience)
            self.power()

    def cut(self) -> None:
        """Take its power away, whatever it does."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def off(self) -> None:
        """Press its power button, and wait until it has shut down; raises Stuck."""
        self.command("system_powerdown")
        self._ended(60)

    def plug(self, inside: bool) -> None:
        """Put the network's cable in, or pull it out."""
        self.command("set_link", name="network", up=inside)

    def command(self, order: str, /, **arguments: Any) -> None:
        """Have QEMU do something; raises Stuck where it refuses."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(20)
            link.connect(str(self._qmp))
            lines = link.makefile("r")
            lines.readline()  # the greeting
            for said in ({"execute": "qmp_capabilities"}, {"execute": order, "arguments": arguments}):
                link.sendall(json.dumps(said).encode() + b"\n")
                while "event" in (answer := json.loads(lines.readline())):
                    pass
                if "error" in answer:
                    raise Stuck(f"QEMU refuses {order}: {answer['error']['desc']}")

    def says(self, text: str, seconds: float = RESTART, since: int = 0) -> None:
        """Wait until the console has `text` after its first `since` characters; raises Stuck."""
        if not until(lambda: text in self.said()[since:], seconds):
            raise Stuck(f"the board did not say {text!r} in {seconds:g} s; {self._last()}")

    def said(self) -> str:
        """Return all that was ever said on the console."""
        return self.console.read_text(errors="replace")

    def reports(self) -> list[dict[str, str]]:
        """Return what the image's unit `report` said about the agent since the board was last switched on."""
        lines = self.said().rpartition("\n--- start ")[2].splitlines()
        found = [match[1] for line in lines if (match := REPORT.match(line.strip()))]
        return [dict(word.split("=", 1) for word in text.split() if "=" in word) for text in found]

    def _ended(self, seconds: float) -> None:
        assert self._process
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Stuck(f"the board did not end in {seconds:g} s; {self._last()}") from None

    def _last(self) -> str:
        return "its last words:\n" + "\n".join(self.said().splitlines()[-25:])

    def _command(self, line: str) -> list[str]:
        machine = [
            "-M",
            "virt",
            "-cpu",
            "cortex-a53",
            "-smp",
            "2",
            "-m",
            "512",
            "-accel",
            "tcg,thread=multi,tb-size=128",
        ]
        started = ["-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", line]
        disk = ["-drive", f"if=none,file={self.disk},format=raw,id=card", "-device", "virtio-blk-pci,drive=card"]
        network = ["-netdev", "user,id=cable", "-device", "virtio-net-pci,netdev=cable,romfile=,id=network"]
        console = ["-chardev", f"file,id=line,path={self.console},append=on", "-serial", "chardev:line"]
        rest = [
            "-device",
            "virtio-rng-pci",
            "-rtc",
            f"base={datetime.now(UTC) - BEHIND:%Y-%m-%dT%H:%M:%S}",
            "-qmp",
            f"unix:{self._qmp},server=on,wait=off",
        ]
        quiet = ["-display", "none", "-no-reboot", "-nodefaults"]
        return ["qemu-system-aarch64", *machine, *started, *disk, *network, *console, *rest, *quiet]
