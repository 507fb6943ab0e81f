"""All files that go onto a boot partition, in the order in which they are written: what starts the others is last."""

from __future__ import annotations

from dataclasses import dataclass

from fedfleet.cloud.flash import cloudinit, firstrun
from fedfleet.cloud.flash.agentfile import AgentFile
from fedfleet.cloud.flash.boot import Boot
from fedfleet.cloud.flash.bundle import Loaded
from fedfleet.cloud.flash.claim import Claim
from fedfleet.cloud.flash.owner import Owner
from fedfleet.cloud.flash.system import System
from fedfleet.wire.errors import SettingsError

FOLDER = "fedfleet"
STATE = "/var/lib/fedfleet"
CLAIM = f"{STATE}/claim.pem"


@dataclass(frozen=True)
class Wanted:
    """What a card is to carry. A device whose certificates come another way has no claim."""

    bundle: Loaded
    agent: AgentFile
    owner: Owner
    claim: Claim | None = None

    def __post_init__(self) -> None:
        require_match(self.agent, self.claim)


def require_match(agent: AgentFile, claim: Claim | None) -> None:
    """Raise SettingsError where settings and claim are not for each other, or `install.sh` would refuse them.

    On a card it would do so when nobody looks on.
    """
    if not agent.state.startswith(f"{STATE}/"):
        raise SettingsError(f'the service may only write below {STATE}; set state = "{STATE}/state" in the settings')
    if claim is None:
        if agent.claim:
            raise SettingsError("the settings want a claim; give it with --claim, from `fedfleet enrol claim`")
        return
    if agent.claim != CLAIM:
        raise SettingsError(f'the settings do not take the claim; set claim = "{CLAIM}" in [enrol]')
    for kind, ours, theirs in (("fleet", claim.fleet, agent.fleet), ("device", claim.device, agent.device)):
        if ours not in ("", theirs):
            raise SettingsError(f"the claim is for the {kind} {ours}, the settings for {theirs}; make a claim for it")


def require_ours(system: System, boot: Boot, name: str) -> None:
    """Raise SettingsError where another program, such as Raspberry Pi Imager, has left settings that would be lost."""
    for file in ("firstrun.sh",) if system.style == "firstrun" else ("user-data", "network-config"):
        data = boot.read(file)
        if data and (cloudinit.foreign(file, data) if file != "firstrun.sh" else firstrun.MARK.encode() not in data):
            raise SettingsError(
                f"{name}: {file} holds settings of another program, which would be lost; take a fresh image, and "
                "give user, Wi-Fi and the rest to this command"
            )


def compose(wanted: Wanted, system: System, cmdline: bytes) -> dict[str, bytes]:
    """Return the files by name; `cmdline` is the kernel's command line that is there."""
    found = {f"{FOLDER}/{name}": data for name, data in wanted.bundle.files.items()}
    found[f"{FOLDER}/agent.toml"] = wanted.agent.data
    if wanted.claim:
        found[f"{FOLDER}/claim.pem"] = wanted.claim.data
    if system.style == "firstrun":
        return found | {"firstrun.sh": firstrun.script(wanted.owner), "cmdline.txt": firstrun.cmdline(cmdline)}
    found |= {
        "network-config": cloudinit.network_config(wanted.owner),
        "user-data": cloudinit.user_data(wanted.owner),
    }
    name = cloudinit.instance(found)
    return found | {
        "meta-data": cloudinit.meta_data(name),
        "cmdline.txt": cloudinit.cmdline(cmdline, name, wanted.owner),
    }
