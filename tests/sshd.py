"""A real sshd on the loopback, with keys and settings of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from brokers import free_port
from processes import until

PROGRAM = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin")
HOST = "pump-1"


def lacking() -> str:
    """Why there can be none here; empty where there can."""
    if PROGRAM is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        return "openssh-server and openssh-client are not installed"
    with suppress(OSError):
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # which sshd asks of root, and its service makes
    return "" if os.geteuid() != 0 or Path("/run/sshd").is_dir() else "/run/sshd is not there"


@contextmanager
def serving(folder: Path, *settings: str, within: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
    """Serve whoever has the key that is made; yields the options with which `ssh pump-1` gets there, as ourselves.

    `within` is a command that runs another somewhere else, such as in a machine of its own.
    """
    port = free_port()
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/client.pub",
        f"PidFile {folder}/sshd.pid",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        *settings,
    ]
    (folder / "sshd.conf").write_text("\n".join(lines) + "\n")
    client = [
        f"Host {HOST}",
        "HostName 127.0.0.1",
        f"Port {port}",
        f"User {getpass.getuser()}",
        f"IdentityFile {folder}/client",
        "IdentitiesOnly yes",
        f"UserKnownHostsFile {folder}/known",
        "StrictHostKeyChecking yes",
        "BatchMode yes",
    ]
    (folder / "ssh.conf").write_text("\n".join(client) + "\n")
    assert PROGRAM is not None
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([*within, PROGRAM, "-D", "-e", "-f", folder / "sshd.conf"], stdout=log, stderr=log)
    try:
        assert until(lambda: _open(port)), (folder / "sshd.log").read_text()
        yield ("-F", str(folder / "ssh.conf"))
    finally:
        process.terminate()
        process.wait(20)


def _open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
