"""`fedfleet backup` and `fedfleet restore`: an aggregator's state in one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfleet.cloud import backup as vault

BACKUP_EXAMPLES = """
[bold]examples[/bold]

fedfleet backup state/cloud monday.backup
"""
RESTORE_EXAMPLES = """
[bold]examples[/bold]

fedfleet restore monday.backup state/cloud
"""


def backup(
    state: Annotated[Path, typer.Argument(help="The aggregator's state folder.")],
    file: Annotated[Path, typer.Argument(help="The file to write; replaced where it is there.")],
) -> None:
    """Write an aggregator's state to one file, also while it runs."""
    print(f"backed up: {file}, {vault.backup(state, file):,} bytes")


def restore(
    file: Annotated[Path, typer.Argument(help="What `fedfleet backup` wrote.")],
    state: Annotated[Path, typer.Argument(help="The folder to make; it must be empty, if it is there.")],
) -> None:
    """Make an aggregator's state folder from a backup; a damaged one is refused before anything is made."""
    vault.restore(file, state)
    print(f"restored: {state}; start its aggregator, which goes on from there")
