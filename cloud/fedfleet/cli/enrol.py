"""`fedfleet enrol`: how devices get into a fleet."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfleet.cli.logs import Format, ending, voice
from fedfleet.cli.options import AsJson
from fedfleet.cli.pki import Pki, when
from fedfleet.cli.terminal import interruptible, needs
from fedfleet.cloud.identity import claims, folder
from fedfleet.cloud.identity.claims import Terms
from fedfleet.cloud.identity.ledger import Claim, Ledger

EXAMPLE = "[bold]examples[/bold]\n\nfedfleet enrol "
TICK = 0.2
Who = Annotated[str, typer.Argument(help="A claim, or the device that has asked by one.")]

app = typer.Typer(
    help="Let devices in: hand out claims, and say who may have a certificate.",
    epilog=f"{EXAMPLE}claim pki --group line-3 --out claim.pem\n\nfedfleet enrol accept pki pump-7",
    no_args_is_help=True,
)


@app.command(
    epilog=f"{EXAMPLE}claim pki --group line-3 --out claim.pem\n\n"
    "fedfleet enrol claim pki --group line-3 --device pump-7 --accept --days 7 --out pump-7.pem\n\n"
    "fedfleet enrol claim pki --group line-3 --count 100 --out claims"
)
def claim(
    pki: Pki,
    group: Annotated[str, typer.Option(help="The group that its device will be in, which is one of its tags.")],
    out: Annotated[Path, typer.Option(help="The claim's file; with --count, the folder of the claims' files.")],
    device: Annotated[str, typer.Option(help="The only name that may be asked for by it; any without.")] = "",
    days: Annotated[float, typer.Option(help="How long it may be used.")] = 30.0,
    count: Annotated[int, typer.Option(help="How many claims, each for one device.", min=1)] = 1,
    accept: Annotated[bool, typer.Option("--accept", help="Let its device in without an operator's word.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hand out one-time claims: what a new board asks for its certificate with."""
    with needs("cloud"):
        from fedfleet.cloud.identity import opening

        made = opening.claims(pki, Terms(group, device, days, accept), out, count, time.time())
    if as_json:
        print(json.dumps([{"claim": name, "file": str(file), "group": group} for name, file in made], indent=1))
        return
    for name, file in made:
        print(f"{name} for group {group} is in {file}; whoever has that file may ask by it, once")


@app.command("list", epilog=f"{EXAMPLE}list pki\n\nfedfleet enrol list pki --json")
def listed(pki: Pki, as_json: AsJson = False) -> None:
    """List all claims, those first whose devices wait for an operator."""
    with _opened(pki) as ledger:
        found = [facts(each) for each in ledger.claims()]
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table(box=box.ROUNDED, border_style="dim")
    for title in ("claim", "group", "device", "key", "state", "asked (UTC)", "expires", "reason"):
        table.add_column(title, overflow="fold")
    for each in found:
        row = dict(each, key=str(each["key"])[:16])
        table.add_row(*(Text(str(row[name])) for name in ("claim", "group", "device", "key", "state", "asked")),
                      *(Text(str(row[name])) for name in ("expires", "reason")))  # fmt: skip
    Console().print(table)


@app.command(epilog=f"{EXAMPLE}accept pki pump-7\n\nfedfleet enrol accept pki claim-0123456789ab")
def accept(pki: Pki, who: Who) -> None:
    """Let the device in that asks by a claim, now or later; the desk gives it its certificate."""
    with _opened(pki) as ledger:
        found = claims.settle(ledger, who, "accepted")
    print(f"accepted: {found.wants or found.device or 'the device'} that asks by {found.id}")


@app.command(epilog=f"{EXAMPLE}refuse pki pump-7\n\nfedfleet enrol refuse pki claim-0123456789ab --reason 'not ours'")
def refuse(pki: Pki, who: Who, reason: Annotated[str, typer.Option(help="What the device is told.")] = "") -> None:
    """Refuse the device that asks by a claim; the claim is of no use any more."""
    with _opened(pki) as ledger:
        found = claims.settle(ledger, who, "refused", reason)
    print(f"refused: {found.wants or found.device or 'the device'} that asks by {found.id}")


@app.command(epilog=f"{EXAMPLE}allow pki pump-7 pump-8\n\nfedfleet enrol allow pki pump-7 --remove")
def allow(
    pki: Pki,
    devices: Annotated[list[str], typer.Argument(help="Names of devices.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take them off the list.")] = False,
) -> None:
    """Let devices of these names in without an operator's word, whichever claim they ask by."""
    fleet = folder.read(pki).fleet
    with _opened(pki) as ledger:
        for device in devices:
            claims.require_device(fleet, device)
            ledger.allow(device, allowed=not remove)
        found = sorted(ledger.allowed())
    print(f"allowed: {', '.join(found) or 'nobody'}")


@app.command(epilog=f"{EXAMPLE}serve pki\n\nfedfleet enrol serve pki --log-format json")
def serve(
    pki: Pki,
    log_format: Annotated[Format, typer.Option(help="Lines for people, or a JSON object a line.")] = Format.text,
) -> None:
    """Run the desk that devices ask for their certificates, until Ctrl-C; `fedfleet aggregate` can do it too."""
    say = voice(log_format)
    with interruptible(), ending(log_format), needs("cloud"), ExitStack() as stack:
        from fedfleet.cloud.identity import desks

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        fleet = folder.read(pki)
        desk = stack.enter_context(desks.opened(pki, folder.link(pki, fleet, "enrol")))
        say(f"fedfleet enrol: the desk of fleet {fleet.fleet} is open at {fleet.hosts[0]}:{fleet.port}")
        while True:
            desk.step(TICK)


def facts(claim: Claim) -> dict[str, object]:
    """Return what is told of a claim, times in UTC."""
    return {
        "claim": claim.id,
        "group": claim.group,
        "device": claim.wants or claim.device,
        "key": claim.key,
        "state": claim.state if claim.state != "unused" or claim.expires > time.time() else "expired",
        "accepts": claim.accepts,
        "asked": when(claim.asked),
        "expires": when(claim.expires),
        "reason": claim.reason,
    }


@contextmanager
def _opened(pki: Path) -> Iterator[Ledger]:
    ledger = Ledger(pki)
    try:
        yield ledger
    finally:
        ledger.close()
