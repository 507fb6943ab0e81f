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
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedfleet.cli.options import JsonFile
from fedfleet.cli.terminal import announce, interruptible, needs
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError

if TYPE_CHECKING:
    from fedfleet.cloud.flash.content import Wanted
    from fedfleet.cloud.flash.disks import Disk
    from fedfleet.cloud.flash.flash import Report
    from fedfleet.cloud.flash.image import Progress as Tick

EXAMPLES = """
[bold]examples[/bold]

fedfleet flash --image raspios.img.xz --out pump-1.img --bundle bundle --settings pump-1.toml --claim pump-1.pem

sudo fedfleet flash --image raspios.img.xz --write /dev/sdX --bundle bundle --settings pump-1.toml --claim pump-1.pem

fedfleet flash --boot /media/me/bootfs --bundle bundle --settings pump-1.toml --claim pump-1.pem --hostname pump-1

WIFI=... fedfleet flash ... --wifi Workshop --wifi-password-env WIFI --country DE

PASSWORD=... fedfleet flash ... --user ada --password-env PASSWORD --ssh-key ~/.ssh/id_ed25519.pub

[bold]exit codes[/bold]

0: the card is as wanted, and read back   2: refused, with the remedy; nothing is half-written   130: interrupted
"""


Bundle = Annotated[Path, typer.Option(help="What `fedfleet bundle` made for this kind of board.")]
Settings = Annotated[Path, typer.Option(help="The device's agent.toml.")]
Image = Annotated[Path | None, typer.Option(help="Raspberry Pi OS, .img or .img.xz; stays as it is.")]
Out = Annotated[Path | None, typer.Option(help="The image to make from --image.")]
Write = Annotated[Path | None, typer.Option(metavar="DEVICE", help="The card to write --image to, such as /dev/sdX.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a card is written.")]
Boot = Annotated[
    Path | None, typer.Option(help="Instead: a card's boot partition, as the folder where it is mounted or a device.")
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
    bundle: Bundle,
    settings: Settings,
    image: Image = None,
    out: Out = None,
    write: Write = None,
    yes: Yes = False,
    boot: Boot = None,
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
    if (image is None) == (boot is None) or (image is None) != (out is None and write is None):
        raise SettingsError("say what to make: --image FILE with --out FILE or --write DEVICE, or --boot FOLDER|DEVICE")
    announce(f"fedfleet flash: {settings} onto {boot or write or out}")
    with needs("cloud"):
        from fedfleet.cloud.flash import agentfile, disks, owner
        from fedfleet.cloud.flash import bundle as bundles
        from fedfleet.cloud.flash import claim as claims
        from fedfleet.cloud.flash.content import Wanted

    found = bundles.load(bundle)
    agent = agentfile.load(settings, found.files)
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
    wanted = Wanted(found, agent, wishes, claims.load(claim) if claim else None)
    with interruptible():
        report = _made(image, out, disks.look(write) if write else None, boot, wanted, yes)
    facts = _facts(report, wanted)
    Console().print(_table(facts))
    if json_file is not None:
        files.write(json_file, json.dumps(facts, indent=1).encode())


def _made(
    image: Path | None, out: Path | None, disk: Disk | None, boot: Path | None, wanted: Wanted, yes: bool
) -> Report:
    """Make the card in the way that is asked for."""
    from fedfleet.cloud.flash import flash as ways

    if disk is not None:
        _confirm(disk.title, yes)
    with _progress() as tick:
        if image is not None and disk is not None:
            return ways.onto_card(image, disk, out, wanted, tick)
        if image is not None and out is not None:
            return ways.onto_image(image, out, wanted, tick)
        assert boot is not None
        return ways.onto_boot(boot, wanted)


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


def _facts(report: Report, wanted: Wanted) -> dict[str, Any]:
    """What was done, as data; no secret is among it."""
    system, outcome, claim = report.system, report.outcome, wanted.claim
    return {
        "place": report.place,
        "changed": report.fresh,
        "system": {**asdict(system), "title": system.title},
        "device": wanted.agent.device,
        "fleet": wanted.agent.fleet,
        "agent": wanted.bundle.release.version,
        "claim_expires": f"{claim.expires:%Y-%m-%dT%H:%M:%SZ}" if claim else None,
        "written": list(outcome.written),
        "removed": list(outcome.removed),
        "same": list(outcome.same),
    }


def _table(facts: dict[str, Any]) -> Table:
    """The report for people."""
    system, expires = facts["system"], facts["claim_expires"]
    style = "firstrun.sh" if system["style"] == "firstrun" else "cloud-init"
    counted = (
        f"{len(facts['written'])} files written, {len(facts['removed'])} removed, {len(facts['same'])} as they were"
    )
    rows = {
        "card": facts["place"],
        "system": f"{system['title']}, Python {system['python']} ({system['how']})",
        "settings go by": style,
        "device": f"{facts['device']} of the fleet {facts['fleet']}, agent {facts['agent']}",
        "claim": f"until {expires[:10]}" if expires else "none: its certificates must come another way",
        "done": f"{counted}; all read back" if facts["changed"] else "nothing: it was all there, byte for byte",
        "next": "put the card in, power the board; it installs and enrols by itself",
    }
    view = Table(box=box.ROUNDED, border_style="dim", show_header=False)
    view.add_column(justify="right", no_wrap=True)
    view.add_column(overflow="fold")
    for name, text in rows.items():
        view.add_row(name, Text(text))
    return view
