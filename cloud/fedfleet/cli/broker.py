"""`fedfleet broker`: the settings of the broker that a fleet meets at, and what mosquitto makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfleet.cli.terminal import needs
from fedfleet.cloud.broker import server
from fedfleet.cloud.broker.layout import Layout
from fedfleet.cloud.identity.folder import read

Pki = Annotated[Path, typer.Argument(help="The folder of the fleet's authority, from `fedfleet pki init`.")]
EXAMPLE = "[bold]examples[/bold]\n\nfedfleet broker "

app = typer.Typer(
    help="The broker that a fleet meets at: settings for mosquitto, and a check of them.",
    epilog=f"{EXAMPLE}config pki\n\nfedfleet broker check pki",
    no_args_is_help=True,
)


@app.command(
    epilog=f"{EXAMPLE}config pki\n\nfedfleet broker config pki --websockets 443\n\n"
    "fedfleet broker config pki --out broker --at /etc/mosquitto/fleet"
)
def config(
    pki: Pki,
    out: Annotated[Path | None, typer.Option(help="Another folder, with all that a broker needs and no more.")] = None,
    at: Annotated[str, typer.Option(help="Where that folder will lie on the broker's machine.")] = "",
    port: Annotated[int, typer.Option(help="The port, if it is not the one of the PKI folder.")] = 0,
    websockets: Annotated[int, typer.Option(help="A second port, for WebSocket through TLS.")] = 0,
    syntax: Annotated[str, typer.Option(help="2.0 or 2.1; by default that of the mosquitto that is installed.")] = "",
    gossip: Annotated[bool, typer.Option(help="Devices may read each other's models.")] = False,
) -> None:
    """Write mosquitto.conf and acl: TLS with a certificate for each client, and to each its own topics only."""
    said, into = read(pki), out or pki
    wanted = syntax or server.syntax()
    plugin = server.plugin() if wanted == "2.1" else ""
    layout = Layout(said.fleet, at or str(into.resolve()), port or said.port, websockets, wanted, plugin)
    with needs("cloud"):
        from fedfleet.cloud.broker import folder

        written = folder.write(pki, into, layout, gossip=gossip)
    for path in written:
        print(f"wrote {path}")
    if websockets and wanted == "2.0":
        print("beware: by its WebSocket mosquitto 2.0 lets revoked certificates in; only the access list stops them")
    print(
        f"for mosquitto {wanted}; try it: fedfleet broker check {into}; run it: mosquitto -c {layout.at}/mosquitto.conf"
    )


@app.command(epilog=f"{EXAMPLE}check pki")
def check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `fedfleet broker config` wrote.")],
) -> None:
    """Let the installed mosquitto say what it makes of its settings; a broker that runs is not disturbed."""
    for line in server.check(directory):
        print(line)
    print(f"mosquitto {'.'.join(map(str, server.version() or ()))} takes {directory / 'mosquitto.conf'}")


@app.command(epilog=f"{EXAMPLE}kick pki pump-7")
def kick(pki: Pki, device: Annotated[str, typer.Argument(help="The device whose session is to end.")]) -> None:
    """End a device's session, for a broker on another machine: `fedfleet pki revoke` does so where it can."""
    with needs("cloud"):
        from fedfleet.cloud.broker import cut

        cut.kick(pki, device)
    print(f"the session of {device} is over")
