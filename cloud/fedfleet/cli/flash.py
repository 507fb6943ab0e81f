"""`fedfleet flash`: a card that needs nothing but power."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fedfleet.cli.options import JsonFile
from fedfleet.cli.terminal import announce, interruptible, needs, sheet
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError

if TYPE_CHECKING:
    from fedfleet.cloud.flash.agentfile import AgentFile
    from fedfleet.cloud.flash.claim import Claim as Found
    from fedfleet.cloud.flash.content import Wanted
    from fedfleet.cloud.flash.flash import Report
    from fedfleet.cloud.flash.image import Progress as Tick
    from fedfleet.cloud.flash.owner import Owner

EXAMPLES = """
[bold]examples[/bold]

fedfleet flash --image raspios.img.xz --out pump-1.img --bundle bundle --settings pump-1.toml --claim pump-1.pem

sudo fedfleet flash --image raspios.img.xz --write /dev/sdX --bundle bundle --settings pump-1.toml --claim pump-1.pem

fedfleet flash --boot /media/me/bootfs --bundle bundle --settings pump-1.toml --claim pump-1.pem --hostname pump-1

fedfleet flash --ssh pi@pump-1.local --settings pump-1.toml --claim pump-1.pem

WIFI=... fedfleet flash ... --wifi Workshop --wifi-password-env WIFI --country DE

PASSWORD=... fedfleet flash ... --user ada --password-env PASSWORD --ssh-key ~/.ssh/id_ed25519.pub

[bold]exit codes[/bold]

0: the card is as wanted, and read back   2: refused, with the remedy; nothing is half-written   130: interrupted
"""


WAYS = "--image FILE with --out FILE or --write DEVICE, or --boot FOLDER|DEVICE, or --ssh USER@HOST"
Bundle = Annotated[
    Path | None, typer.Option(help="What `fedfleet bundle` made for this kind of board; --ssh makes it, if need be.")
]
Settings = Annotated[Path, typer.Option(help="The device's agent.toml.")]
Image = Annotated[Path | None, typer.Option(help="Raspberry Pi OS, .img or .img.xz; stays as it is.")]
Out = Annotated[Path | None, typer.Option(help="The image to make from --image.")]
Write = Annotated[Path | None, typer.Option(metavar="DEVICE", help="The card to write --image to, such as /dev/sdX.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a card is written.")]
Boot = Annotated[
    Path | None, typer.Option(help="Instead: a card's boot partition, as the folder where it is mounted or a device.")
]
Ssh = Annotated[
    str, typer.Option(metavar="USER@HOST", help="Instead: install on a board that runs, by OpenSSH's own client.")
]
Claim = Annotated[Path | None, typer.Option(help="The device's claim, from `fedfleet enrol claim`.")]
Wifi = Annotated[str, typer.Option(metavar="SSID", help="The Wi-Fi network to join.")]
WifiPassword = Annotated[
    str, typer.Option(metavar="VAR", help="The environment variable with its password; none: an open network.")
]
Country = Annotated[str, typer.Option(metavar="CC", help="Whose rules the radio follows, such as DE.")]
User = Annotated[str, typer.Option(metavar="NAME", help="The user to log in as.")]
Password = Annotated[str, typer.Option(metavar="VAR", help="The environment variable with the user's password.")]
Hash = Annotated[str, typer.Option(help="Instead: the password as `openssl passwd -6` prints it.")]
Keys = Annotated[Path | None, typer.Option(help="Public keys that may log in; SSH takes no passwords then.")]
Hostname = Annotated[str, typer.Option(help="The board's name in the network.")]
Timezone = Annotated[str, typer.Option(help="Such as Europe/Berlin.")]


def flash(
    settings: Settings,
    bundle: Bundle = None,
    image: Image = None,
    out: Out = None,
    write: Write = None,
    yes: Yes = False,
    boot: Boot = None,
    ssh: Ssh = "",
    claim: Claim = None,
    wifi: Wifi = "",
    wifi_password_env: WifiPassword = "",
    country: Country = "",
    user: User = "",
    password_env: Password = "",
    password_hash: Hash = "",
    ssh_key: Keys = None,
    hostname: Hostname = "",
    timezone: Timezone = "",
    json_file: JsonFile = None,
) -> None:
    """Write the agent and its settings onto Raspberry Pi OS, in the form that its release reads. No root, no mount."""
    if sum(map(bool, (image, boot, ssh))) != 1 or bool(image) != bool(out or write):
        raise SettingsError(f"say what to make: {WAYS}")
    if not (bundle or ssh):
        raise SettingsError("a card needs --bundle: make one with `fedfleet bundle`")
    announce(f"fedfleet flash: {settings} onto {ssh or boot or write or out}")
    with needs("cloud"):
        from fedfleet.cloud.flash import agentfile, owner
        from fedfleet.cloud.flash import bundle as bundles
        from fedfleet.cloud.flash import claim as claims
        from fedfleet.cloud.flash.content import Wanted

    found = bundles.load(bundle) if bundle else None
    agent = agentfile.load(settings, found.files if found else {})
    wishes = owner.gather(
        agent.device,
        user=user,
        password=owner.secret("--password-env", password_env),
        password_hash=password_hash,
        keys=ssh_key,
        hostname=hostname,
        timezone=timezone,
        country=country,
        wifi=wifi,
        wifi_password=owner.secret("--wifi-password-env", wifi_password_env),
    )
    promised = claims.load(claim) if claim else None
    with interruptible():
        if ssh:
            facts = _installed(ssh, bundle, agent, promised, wishes)
        elif found is not None:
            facts = _made(image, out, write, boot, Wanted(found, agent, wishes, promised), yes)
    _print(facts, json_file)


def _print(facts: dict[str, Any], json_file: Path | None) -> None:
    """Show the rows of `facts`, and write the rest to a file where one is named."""
    Console().print(sheet(facts.pop("rows")))
    if json_file is not None:
        files.write(json_file, json.dumps(facts, indent=1).encode())


def _installed(host: str, folder: Path | None, agent: AgentFile, claim: Found | None, wishes: Owner) -> dict[str, Any]:
    """Install over ssh; return the facts, with `rows` for people."""
    from fedfleet.cloud.flash import content, owner
    from fedfleet.cloud.flash import ssh as shell

    if wishes != owner.Owner():
        raise SettingsError("--ssh installs the agent alone: user, Wi-Fi and names are set on the board itself")
    content.require_match(agent, claim)
    with _progress() as tick:
        report = shell.install(host, folder, agent.data, claim.data if claim else None, tick=tick)
    facts = _facts(report.host, report.fresh, agent, claim) | {"agent": report.version, "said": report.said}
    rows = {
        "board": f"{report.host}: {report.found.system}, Python {report.found.python}",
        "device": f"{agent.device} of the fleet {agent.fleet}, agent {report.version}",
        "done": report.said,
    }
    return {**facts, "system": asdict(report.found), "rows": rows}


def _made(
    image: Path | None, out: Path | None, write: Path | None, boot: Path | None, wanted: Wanted, yes: bool
) -> dict[str, Any]:
    """Make the card in the way that is asked for; return the facts, with `rows` for people."""
    from fedfleet.cloud.flash import disks
    from fedfleet.cloud.flash import flash as ways

    disk = disks.look(write) if write else None
    if disk is not None:
        _confirm(disk.title, yes)
    with _progress() as tick:
        if image is not None and disk is not None:
            report = ways.onto_card(image, disk, out, wanted, tick)
        elif image is not None and out is not None:
            report = ways.onto_image(image, out, wanted, tick)
        elif boot is not None:
            report = ways.onto_boot(boot, wanted)
    return _card(report, wanted)


def _confirm(disk: str, yes: bool) -> None:
    """Ask, unless `yes`; raises SettingsError where nobody can be asked, or says no."""
    if not yes and not sys.stdin.isatty():
        raise SettingsError(f"{disk}: all that is on it would be lost; say --yes if that is right")
    if not yes and not typer.confirm(f"{disk}: all that is on it will be lost. Write it?"):
        raise SettingsError("nothing was written; name another card")


@contextmanager
def _progress() -> Iterator[Tick]:
    """A bar for each thing that takes long; gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        known = dict[str, TaskID]()

        def tick(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what)
            bars.update(known[what], completed=done, total=total)

        yield tick


def _facts(place: str, fresh: bool, agent: AgentFile, claim: Found | None) -> dict[str, Any]:
    """What was done, as data; no secret is among it."""
    return {
        "place": place,
        "changed": fresh,
        "device": agent.device,
        "fleet": agent.fleet,
        "claim_expires": f"{claim.expires:%Y-%m-%dT%H:%M:%SZ}" if claim else None,
    }


def _card(report: Report, wanted: Wanted) -> dict[str, Any]:
    """The facts of a card, with `rows` for people."""
    system, outcome, agent, claim = report.system, report.outcome, wanted.agent, wanted.claim
    written = len(outcome.written)
    done = f"{written} files written, {len(outcome.removed)} removed, {len(outcome.same)} as they were; all read back"
    version = wanted.bundle.release.version
    rows = {
        "card": report.place,
        "system": f"{system.title}, Python {system.python} ({system.how})",
        "settings go by": "firstrun.sh" if system.style == "firstrun" else "cloud-init",
        "device": f"{agent.device} of the fleet {agent.fleet}, agent {version}",
        "claim": f"until {claim.expires:%Y-%m-%d}" if claim else "none: its certificates must come another way",
        "done": done if report.fresh else "nothing: it was all there, byte for byte",
        "next": "put the card in, power the board; it installs and enrols by itself",
    }
    return {
        **_facts(report.place, report.fresh, agent, claim),
        "agent": version,
        "system": {**asdict(system), "title": system.title},
        "written": list(outcome.written),
        "removed": list(outcome.removed),
        "same": list(outcome.same),
        "rows": rows,
    }
