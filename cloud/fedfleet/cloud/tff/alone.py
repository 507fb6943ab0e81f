"""`python -m fedfleet.cloud.tff.alone MODULE` runs a module where no network reaches it, if the kernel lets us.

TFF's worker takes computations of anyone, and listens on all addresses of the machine. In a network of its own, with no
more than a loopback, nobody else is there to send any. That takes the right to make one (root has it, and users where
user namespaces are allowed). Nothing heavy may be loaded before: a process with threads can no longer move.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import runpy
import socket
import struct
import sys
from pathlib import Path

OPEN = "FEDFLEET_TFF_OPEN"  # set where the network of the machine reaches us
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # linux/sched.h
SET_FLAGS, UP = 0x8914, 1  # linux/sockios.h, linux/if.h


def alone() -> bool:
    """Move this process to a network of its own, with a loopback; whether that was allowed."""
    unshare, user, group = ctypes.CDLL(None).unshare, os.getuid(), os.getgid()
    if unshare(NEW_NETWORK) != 0:
        if unshare(NEW_USER | NEW_NETWORK) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
        fcntl.ioctl(any_, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
    return True


if __name__ == "__main__":
    if not alone():
        os.environ[OPEN] = "1"
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
