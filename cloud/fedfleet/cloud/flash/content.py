"""All files that go onto a boot partition, in the order in which they are written: what starts the others is last."""

from __future__ import annotations

from dataclasses import dataclass

from fedfleet.cloud.flash import cloudinit, firstrun
from fedfleet.cloud.flash.agentfile import AgentFile
from fedfleet.cloud.flash.bundle import Bundle
from fedfleet.cloud.flash.claim import Claim
from fedfleet.cloud.flash.owner import Owner
from fedfleet.cloud.flash.system import System
from fedfleet.wire.errors import SettingsError

FOLDER = "fedfleet"


@dataclass(frozen=True)
class Wanted:
    """What a card is to carry. A device whose certificates come another way has no claim."""

    bundle: Bundle
    agent: AgentFile
    owner: Owner
    claim: Claim | None = None

    def __post_init__(self) -> None:
        claim, agent = self.claim, self.agent
        if claim and claim.fleet != agent.fleet:
            raise SettingsError(
                f"the claim is for the fleet {claim.fleet}, the settings for {agent.fleet}; make a claim for it"
            )
        if claim and claim.device not in ("", agent.device):
            raise SettingsError(
                f"the claim is for the device {claim.device}, the settings for {agent.device}; make a claim for it"
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
