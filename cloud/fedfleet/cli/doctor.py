"""`fedfleet doctor`: what is wrong with an aggregator or an authority, and what to do about it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from fedfleet.cli.options import AsJson
from fedfleet.cloud.doctor.checks import look
from fedfleet.wire.doctor import checkup

EXAMPLES = """
[bold]examples[/bold]

fedfleet doctor settings.toml

fedfleet doctor pki --json
"""


def doctor(
    where: Annotated[
        Path, typer.Argument(metavar="SETTINGS|PKI", help="An aggregator's settings, or an authority's folder.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what keeps the cloud's side from working, one cause for each broken thing, with its fix.

    Exits with 2 where something is to be mended. A device has its own: fedfleet-agent --settings FILE doctor.
    """
    logging.getLogger("fedfleet").setLevel(logging.CRITICAL)  # what is said below is said once, with its fix
    side, found = look(where)
    typer.echo(checkup.as_json(side, found) if as_json else checkup.as_text(found))
    raise typer.Exit(checkup.code(found))
