"""What goes wrong with containers on command: their network, their link, their memory, their life."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from fedfleet.sim.docker.client import BUILD, ROOT, docker
from fedfleet.sim.mishaps import Mishap
from fedfleet.wire.errors import SettingsError

TOOLS = "fedfleet-faults"  # an image with tc and iptables
OWN_MEMORY = 512 * 2**20  # what services.yaml gives a device
PARALLEL = 8
TBF = "burst 8kb latency 500ms"
NAMED = "link=$(ip -o -4 address show scope global | cut -d' ' -f2)"  # it has another name after each disconnection
Act = Callable[[str], str]  # takes a container, returns what was done to it


def afflict(mishap: Mishap, containers: Mapping[str, str], project: str) -> str:
    """Have `mishap` begin for these devices and their containers; returns what was done, in words."""
    return _each(containers, _beginnings(mishap, project)[mishap.kind])


def relieve(mishap: Mishap, containers: Mapping[str, str], project: str) -> str:
    """Have `mishap` end for them; returns what was done, in words."""
    return _each(containers, _endings(mishap, project)[mishap.kind])


def prepare(mishaps: Sequence[Mishap]) -> None:
    """Build what these mishaps take, while nothing runs yet. Raises SettingsError."""
    if any(mishap.kind in ("slow", "loss") for mishap in mishaps):
        recipe = ("--file", str(ROOT / "cloud" / "broker.Dockerfile"), "--target", "faults", "--tag", TOOLS)
        docker("build", "--quiet", *recipe, str(ROOT), seconds=BUILD)


def _beginnings(mishap: Mishap, project: str) -> dict[str, Act]:
    rate = f"{mishap.amount / 1000:g}kbit"
    return {
        "disconnect": lambda one: _done(
            f"off the network {project}_field", "network", "disconnect", *_on(project, one)
        ),
        "kill": lambda one: _done("killed", "kill", one),
        "slow": lambda one: _link(
            one, f"sends {rate} at most", f"tc qdisc replace dev $link root tbf rate {rate} {TBF}"
        ),
        "loss": lambda one: _link(
            one, f"loses {100 * mishap.amount:g} % of its packets", _dropping("-A", mishap.amount)
        ),
        "memory": lambda one: _memory(one, int(mishap.amount)),
    }


def _endings(mishap: Mishap, project: str) -> dict[str, Act]:
    return {
        "disconnect": lambda one: _done("on the network again", "network", "connect", *_on(project, one)),
        "kill": lambda one: _done("started again", "start", one),
        "slow": lambda one: _link(one, "sends as fast as it can again", "tc qdisc del dev $link root"),
        "loss": lambda one: _link(one, "loses no packets", _dropping("-D", mishap.amount)),
        "memory": lambda one: _memory(one, OWN_MEMORY),
    }


def _on(project: str, container: str) -> tuple[str, str]:
    return f"{project}_field", container


def _dropping(how: str, share: float) -> str:
    rule = f"-m statistic --mode random --probability {share:.6f} -j DROP"
    return f"iptables {how} INPUT {rule} && iptables {how} OUTPUT {rule}"


def _done(what: str, *command: str) -> str:
    docker(*command)
    return what


def _link(container: str, what: str, command: str) -> str:
    """Run `command` in the network of `container`, from an image that has tc and iptables."""
    within = ("--rm", "--network", f"container:{container}", "--cap-add", "NET_ADMIN", "--user", "0")
    return _done(what, "run", *within, TOOLS, "sh", "-c", f"{NAMED}; {command}")


def _memory(container: str, size: int) -> str:
    """Bound a container's memory. One that has more already, and that Linux would not shrink, begins anew with it."""
    bound = ("update", "--memory", str(size), "--memory-swap", str(size), container)
    what = f"has {size / 2**20:g} MiB of memory"
    try:
        return _done(what, *bound)
    except SettingsError:
        docker("kill", container)
        docker(*bound)
        docker("start", container)
        return f"killed, for it had more already; {what}"


def _each(containers: Mapping[str, str], act: Act) -> str:
    """Do it to all at once, and say for whom it was done, and where it failed why."""

    def tried(container: str) -> str:
        try:
            return act(container)
        except SettingsError as error:
            return f"not done: {error}"

    with ThreadPoolExecutor(PARALLEL) as pool:
        said = dict(zip(containers, pool.map(tried, containers.values()), strict=True))
    words = {what: [device for device in said if said[device] == what] for what in dict.fromkeys(said.values())}
    return "; ".join(f"{', '.join(devices)}: {what}" for what, devices in words.items())
