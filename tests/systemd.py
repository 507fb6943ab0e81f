"""A real systemd in namespaces of its own, over a copy of this system that is gone afterwards; needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from processes import children, until

SYSTEMD = "/lib/systemd/systemd"
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
# $1: a folder that the machine shares with the test. Without the wants of sysinit.target nothing starts but what is
# asked for; a read-only /sys and /proc/sys keep it off the host's devices and settings.
BOOT = """
set -e
mount -t tmpfs tmpfs /mnt; cd /mnt; mkdir up work root
mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root; cd root
mount -t proc proc proc; mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup; mount -o remount,bind,ro sys
mount -t tmpfs tmpfs run; mount -t tmpfs -o mode=1777 tmpfs tmp; mount -t tmpfs tmpfs dev
mkdir -p "./$1" dev/pts dev/shm var/log; mount --bind "$1" "./$1"
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
rm -rf lib/systemd/system/sysinit.target.wants lib/systemd/system/local-fs.target.wants etc/systemd/system/*.wants
: > etc/fstab; echo 0123456789abcdef0123456789abcdef > etc/machine-id
printf '[Unit]\\nWants=systemd-journald.service dbus.service\\n' > etc/systemd/system/bare.target
mkdir -p old; pivot_root . old; umount -l /old  # not chroot: in one, no service can have users of its own
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=bare.target --log-level=warning --show-status=no
"""


class Machine:
    """What runs under that systemd."""

    def __init__(self, init: int) -> None:
        self._init = init

    @property
    def enter(self) -> list[str]:
        """The command that runs another in it."""
        return ["nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i", "-C"]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root, to its end."""
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run(
            [*self.enter, *command],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=clean,
            stdin=subprocess.DEVNULL,
        )

    def said(self, *command: str) -> str:
        """What a command prints that must not fail."""
        result = self.run(*command)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def shows(self, what: str, unit: str = "fedfleet-agent.service") -> str:
        """A property of a unit."""
        return self.said("systemctl", "show", "--value", "-p", what, unit)


def lacking() -> str:
    """Why there can be none here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path(SYSTEMD).exists() or not shutil.which("unshare"):
        return "systemd is not installed"
    tried = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b /mnt/c && mount -t cgroup2 cgroup2 /mnt/c && " \
        "mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/a,workdir=/mnt/b /mnt"  # fmt: skip
    done = subprocess.run(["unshare", "-mpfC", "sh", "-c", tried], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"no namespaces here: {done.stderr.strip()[:100]}"


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """A machine that shares `folder`, and the network, with this one."""
    with _cgroup() as entered:
        command = [
            "sh",
            "-c",
            f"echo $$ > {entered}/cgroup.procs; exec unshare -mpfuiC sh -c '{_quoted(BOOT)}' boot {folder}",
        ]
        with (folder / "boot.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            assert until(lambda: bool(children(process.pid))), (folder / "boot.log").read_text()
            machine = Machine(children(process.pid)[0])
            assert until(lambda: _up(machine)), (folder / "boot.log").read_text()
            yield machine
        finally:
            for child in children(process.pid):
                os.kill(child, 9)  # the first process of a namespace takes all others with it
            process.wait(20)


def _up(machine: Machine) -> bool:
    return machine.run("systemctl", "is-active", "bare.target").stdout.strip() == "active"


def _quoted(script: str) -> str:
    return script.replace("'", "'\\''")


@contextmanager
def _cgroup() -> Iterator[Path]:
    """A control group for all of it, that is removed with what was made in it."""
    above = next(path for path in CGROUPS if (path / "cgroup.procs").exists())
    made = above / f"fedfleet-test-{os.getpid()}"
    made.mkdir()
    try:
        yield made
    finally:
        for path in sorted((path for path in made.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                path.rmdir()
        until(lambda: _removed(made), 5)


def _removed(folder: Path) -> bool:
    with suppress(OSError):
        folder.rmdir()
    return not folder.exists()
