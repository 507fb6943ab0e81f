"""`fedfleet bundle`: all that a board needs to become a device, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfleet.cli.options import JsonFile
from fedfleet.wire import files

EXAMPLES = """
[bold]examples[/bold]

fedfleet bundle --board bookworm64

fedfleet bundle --board trixie64 --out card/fedfleet

fedfleet bundle --board bookworm32 --wheels wheels
"""


def bundle(
    board: Annotated[str, typer.Option(help="bookworm64 | bookworm32 | trixie64: the Raspberry Pi OS of the board.")],
    out: Annotated[Path, typer.Option(help="The folder to make; a bundle that is there is replaced.")] = Path("bundle"),
    wheels: Annotated[
        Path | None, typer.Option(help="A folder with the board's wheels, where there is no network.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Make the folder that `install.sh` in it installs from, on a board without a network."""
    from fedfleet.cloud.bundle.boards import board as board_of
    from fedfleet.cloud.bundle.make import make

    found = board_of(board)
    print(f"making a bundle for {found.name}: Python {found.python} on {found.machine}", flush=True)
    release = make(found, out, wheels)
    for wheel in release.wheels:
        print(f"  {wheel.size:>10,} {wheel.name}")
    for name in found.apart:
        print(f"  {name} is Debian's own python3-{name} there: install.sh fetches it where it is missing")
    if json_file is not None:
        files.write(json_file, release.text())
    sizes = f"wheels={len(release.wheels)} bytes={release.size}"
    print(f"result board={found.name} version={release.version} {sizes} out={out}")
