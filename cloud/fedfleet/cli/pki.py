"""`fedfleet pki`: the authority that says who is in a fleet."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfleet.cli.options import AsJson
from fedfleet.cli.terminal import needs
from fedfleet.cloud.identity import folder
from fedfleet.cloud.identity.folder import Fleet
from fedfleet.cloud.identity.ledger import Certificate, Ledger
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import Mismatch

Pki = Annotated[Path, typer.Argument(help="The authority's folder.")]
EXAMPLE = "[bold]examples[/bold]\n\nfedfleet pki "

app = typer.Typer(
    help="The authority of a fleet: certificates for its broker, its cloud and its devices.",
    epilog=f"{EXAMPLE}init pki --fleet pumps --broker mqtt.example.com\n\nfedfleet pki revoke pki pump-7",
    no_args_is_help=True,
)


@app.command(
    epilog=f"{EXAMPLE}init pki --fleet pumps --broker mqtt.example.com,192.168.1.5\n\n"
    "fedfleet pki init pki --fleet pumps --broker mqtt.example.com --ca plant-ca.pem --ca-key plant-ca.key"
)
def init(
    pki: Pki,
    fleet: Annotated[str, typer.Option(help="The fleet's name: 1 to 36 characters of a-z, 0-9 and -.")],
    broker: Annotated[str, typer.Option(help="Names and addresses of the broker, by commas; devices use the first.")],
    port: Annotated[int, typer.Option(help="The broker's port for TLS.")] = 8883,
    ca: Annotated[
        Path | None, typer.Option(help="An authority of your own: its certificate, then its issuers.")
    ] = None,
    ca_key: Annotated[Path | None, typer.Option(help="The private key of --ca, without a passphrase.")] = None,
) -> None:
    """Make an authority, or take your own, and certificates for the broker and the cloud."""
    if (ca is None) != (ca_key is None):
        raise SettingsError("--ca and --ca-key belong together: give both or neither")
    try:
        wanted = Fleet(fleet, _hosts(broker), port)
    except Mismatch as error:
        raise SettingsError(str(error)) from None
    with needs("cloud"):
        from fedfleet.cloud.identity import opening

        opening.make(pki, wanted, time.time(), (ca, ca_key) if ca and ca_key else None)
    print(f"the authority of fleet {fleet} is in {pki}; keep {pki / folder.CA_KEY} to yourself, and a copy of it")


@app.command(epilog=f"{EXAMPLE}show pki\n\nfedfleet pki show pki --json > identity.json")
def show(pki: Pki, as_json: AsJson = False) -> None:
    """List every certificate that was made for a device or a claim, and what became of it."""
    fleet, found = folder.read(pki), _certificates(pki)
    if as_json:
        print(json.dumps({**asdict(fleet), "certificates": [facts(each) for each in found]}, indent=1))
        return
    table = Table(box=box.ROUNDED, border_style="dim", title=f"fleet {fleet.fleet}")
    for title in ("name", "group", "serial", "made (UTC)", "ends", "state"):
        table.add_column(title, overflow="fold")
    for each in map(facts, found):
        cells = (each["name"], each["group"], each["serial"][:16], each["made"], each["ends"], each["state"])
        table.add_row(*map(Text, cells))
    Console().print(table)


@app.command(epilog=f"{EXAMPLE}revoke pki pump-7\n\nfedfleet pki revoke pki claim-0123456789ab --reason 'card lost'")
def revoke(
    pki: Pki,
    device: Annotated[str, typer.Argument(help="The device, or the claim.")],
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    as_json: AsJson = False,
) -> None:
    """Shut a device out for good: revoke its certificates. It comes back with a new key and a new claim alone."""
    with needs("cloud"):
        from fedfleet.cloud.broker.cut import cut
        from fedfleet.cloud.identity import revocation

        found = revocation.revoke(pki, device, time.time(), reason)
        left = cut(pki, device)
    if as_json:
        print(json.dumps({**found._asdict(), "left": left}, indent=1))
        return
    print(f"{device} is revoked ({len(found.serials)} certificates); {pki / folder.CRL} is written")
    for each in left or ["the broker has shut it out, and ended its session"]:
        print(each)


@app.command(epilog=f"{EXAMPLE}renew pki\n\nfedfleet pki renew pki --broker mqtt.example.com,10.0.0.5")
def renew(
    pki: Pki,
    broker: Annotated[
        str, typer.Option(help="New names and addresses of the broker, by commas; else those it has.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Renew the certificates of the broker and the cloud, which last five years. Devices renew theirs themselves."""
    hosts = _hosts(broker) if broker else ()
    with needs("cloud"):
        from fedfleet.cloud.broker.cut import handed_over
        from fedfleet.cloud.identity.renew import renew as made_anew

        try:
            made = made_anew(pki, time.time(), hosts)
        except Mismatch as error:
            raise SettingsError(str(error)) from None
        left = [each for each in (handed_over(pki, ("broker.pem",)),) if each]
    if as_json:
        print(json.dumps({"renewed": made, "left": left}, indent=1))
        return
    print(f"renewed in {pki}: {', '.join(made)}; their keys are as they were")
    for each in left or ["the broker reads its own anew; who runs with another takes it up with the next link"]:
        print(each)


def facts(certificate: Certificate) -> dict[str, Any]:
    """Return what is told of a certificate, times in UTC."""
    state = "revoked" if certificate.revoked else "expired" if certificate.ends <= time.time() else "valid"
    return {
        "name": certificate.name,
        "group": certificate.group,
        "serial": certificate.serial,
        "claim": certificate.claim,
        "made": when(certificate.made),
        "ends": when(certificate.ends),
        "state": state,
        "revoked": when(certificate.revoked),
        "reason": certificate.reason,
    }


def when(seconds: float) -> str:
    """Return a time (seconds since 1970) for people and machines; empty for 0, which is never."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(host.strip() for host in text.split(","))


def _certificates(pki: Path) -> list[Certificate]:
    ledger = Ledger(pki)
    try:
        return ledger.certificates()
    finally:
        ledger.close()
