"""A docker engine to prove things on: the one that is there, or in CI on Debian one of its own, and base images by hand.

CI may have neither an engine nor a registry of images. With CI=true and root on Debian, what is missing is installed and
an engine started that keeps all of its own in one folder; base images are made of the distribution's packages, under the
names that the Dockerfiles begin from. On any other machine nothing is installed and nothing started.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fedfleet.sim.docker.client import require
from fedfleet.wire.errors import SettingsError

PACKAGES = {"dockerd": "docker.io", "debootstrap": "debootstrap", "iptables": "iptables", "curl": "curl"}
PLUGINS = ("docker-compose/docker-compose_2.26.1-4", "docker-buildx/docker-buildx_0.13.1+ds1-3")  # of Debian 13
AUTHORITIES = Path("/usr/local/share/ca-certificates")  # those of a network that looks into what passes
SLIM, PYTHON = "debian:bookworm-slim", "python:3.11-slim"
RECIPE = f"""
FROM {SLIM}
COPY authorities /usr/local/share/ca-certificates/
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-pip \\
 && update-ca-certificates && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/lib/python3.11/EXTERNALLY-MANAGED \\
 && ln -s /usr/bin/python3 /usr/local/bin/python
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
"""
START = 60.0


class Missing(Exception):
    """This machine lacks something, in one line."""


class Found(NamedTuple):
    """The engine: the environment in which `docker` reaches it, and what it is, for people."""

    environment: dict[str, str]
    name: str


@contextmanager
def engine() -> Iterator[Found]:
    """Give an engine with what images begin from; one of its own ends with the block. Raises Missing."""
    try:
        yield Found({}, f"docker {require()}")
        return
    except SettingsError as error:
        if os.environ.get("CI") != "true" or os.getuid() or not shutil.which("apt-get"):
            raise Missing(f"{error} (with CI=true, as root, on Debian, it would bring its own)") from None
    _install()
    with tempfile.TemporaryDirectory(prefix="fedfleet-docker-") as folder:
        place = Path(folder)
        with _started(place) as environment:
            _bases(place, environment)
            yield Found(environment, "docker of its own")


def run(*command: str, environment: dict[str, str] | None = None, given: bytes | None = None) -> str:
    """Run `command` and return what it printed; raises Missing with its last words where it fails."""
    env = {**os.environ, **(environment or {})}
    done = subprocess.run(command, capture_output=True, env=env, input=given, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise Missing(f"{' '.join(command[:3])}: {said[-1] if said else done.returncode}")
    return done.stdout.decode(errors="replace").strip()


def _install() -> None:
    wanted = [package for command, package in PACKAGES.items() if not shutil.which(command)]
    if wanted:
        run("apt-get", "update", "-qq")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted, environment=quiet)


@contextmanager
def _started(place: Path) -> Iterator[dict[str, str]]:
    """Run an engine whose folder is `place`; what it does to the machine's network is undone."""
    untouched = _filters() == [] and not Path("/sys/class/net/docker0").exists()
    forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    socket = f"unix://{place}/docker.sock"
    options = ("--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "--pidfile", f"{place}/dockerd.pid")
    with (place / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            ["dockerd", *options, "--host", socket, "--mtu", "1400"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    environment = {"DOCKER_HOST": socket, "DOCKER_CONFIG": f"{place}/client", "DOCKER_BUILDKIT": "1"}
    try:
        _plugins(place)
        _answering(process, environment, place / "dockerd.log")
        yield environment
    finally:
        process.terminate()
        process.wait()
        if untouched:
            _undo(forwards)


def _answering(process: subprocess.Popen[bytes], environment: dict[str, str], log: Path) -> None:
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            run("docker", "info", environment=environment)
        except Missing:
            time.sleep(0.2)
        else:
            return
    raise Missing(f"dockerd did not start: {log.read_text().strip().splitlines()[-1:]}")


def _filters() -> list[str]:
    """Return the rules of the machine's packet filter."""
    tables = (run("iptables", "-t", table, "-S") for table in ("filter", "nat"))
    return [line for table in tables for line in table.splitlines() if not line.startswith("-P")]


def _undo(forwards: str) -> None:
    run("iptables", "-P", "FORWARD", "ACCEPT")
    for table in ("filter", "nat"):
        run("iptables", "-t", table, "-F")
        run("iptables", "-t", table, "-X")
    if Path("/sys/class/net/docker0").exists():
        run("ip", "link", "delete", "docker0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text(forwards)


def _plugins(place: Path) -> None:
    """Give the client compose and buildx, from packages that are unpacked and not installed."""
    plugins = place / "client" / "cli-plugins"
    plugins.mkdir(parents=True)
    for name in PLUGINS:
        package = place / "plugin.deb"
        run("curl", "-fsSL", "-o", str(package), f"{_mirror()}/pool/main/d/{name}_amd64.deb")
        run("dpkg-deb", "-x", str(package), str(place / "unpacked"))
    for found in (place / "unpacked/usr/libexec/docker/cli-plugins").iterdir():
        shutil.copy(found, plugins)


def _mirror() -> str:
    """Return where this machine's own apt gets Debian from."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text(errors="replace") for path in sources if path.is_file())
    found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?) *(\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
    if not found:
        raise Missing("apt knows no mirror of Debian to get compose and base images from")
    return found[1]


def _bases(place: Path, environment: dict[str, str]) -> None:
    """Make the images that ours begin from."""
    root = place / "root"
    run("debootstrap", "--variant=minbase", "bookworm", str(root), _mirror())
    for left in (*(root / "var/cache/apt/archives").glob("*.deb"), *(root / "var/lib/apt/lists").glob("*_*")):
        left.unlink()
    tar = run_tar(root)
    run("docker", "import", "-c", 'CMD ["bash"]', "-", SLIM, environment=environment, given=tar)
    shutil.rmtree(root)
    (place / "base" / "authorities").mkdir(parents=True)
    for authority in AUTHORITIES.glob("*.crt"):
        shutil.copy(authority, place / "base" / "authorities")
    (place / "base" / "Dockerfile").write_text(RECIPE)
    run("docker", "build", "--quiet", "--tag", PYTHON, str(place / "base"), environment=environment)


def run_tar(root: Path) -> bytes:
    """Return the files below `root` as an archive, without its devices."""
    return subprocess.run(
        ["tar", "-C", str(root), "-c", "--exclude=./dev/*", "."], capture_output=True, check=True
    ).stdout
