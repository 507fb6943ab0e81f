"""`fedfleet fleet`: what an aggregator and its devices are doing, read from its state folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from fedfleet.cli import screens
from fedfleet.cli.options import AsJson
from fedfleet.cli.screens import Screen
from fedfleet.cloud import fleet
from fedfleet.cloud.settings import load_aggregator

State = Annotated[Path, typer.Argument(help="The aggregator's state folder, or its settings file.")]
Watch = Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C: redraw, or print what has changed.")]
EXAMPLE = "[bold]examples[/bold]\n\nfedfleet fleet "

app = typer.Typer(
    help="What the aggregator and its devices are doing, and why a round waits.",
    epilog=f"{EXAMPLE}status fleet.toml --watch\n\nfedfleet fleet list state/cloud",
    no_args_is_help=True,
)


class Found(NamedTuple):
    """What a command prints, in both forms."""

    facts: Any
    screen: Screen


@app.command(epilog=f"{EXAMPLE}status state/cloud\n\nfedfleet fleet status fleet.toml --watch")
def status(state: State, as_json: AsJson = False, watch: Watch = False) -> None:
    """Show what the aggregator is doing: its round, why that waits, its devices by state, the last rounds."""
    folder = _folder(state)

    def look() -> Found:
        found = fleet.fleet(folder)
        return Found(asdict(found), screens.status(found))

    _show(look, as_json, watch)


@app.command("list", epilog=f"{EXAMPLE}list state/cloud\n\nfedfleet fleet list fleet.toml --json > devices.json")
def listed(state: State, as_json: AsJson = False, watch: Watch = False) -> None:
    """List all devices: state and why, when last seen, what they contributed."""
    folder = _folder(state)

    def look() -> Found:
        found = fleet.devices(folder)
        return Found([asdict(device) for device in found], screens.devices(found))

    _show(look, as_json, watch)


@app.command(epilog=f"{EXAMPLE}show state/cloud pump-1\n\nfedfleet fleet show fleet.toml pump-1 --json")
def show(
    state: State,
    device: Annotated[str, typer.Argument(help="The device's name.")],
    as_json: AsJson = False,
    watch: Watch = False,
) -> None:
    """Show one device and its history: every update that was counted, and what became of its round."""
    folder = _folder(state)

    def look() -> Found:
        found, history = fleet.device(folder, device)
        facts = {**asdict(found), "history": [asdict(each) for each in history]}
        return Found(facts, screens.device(found, history))

    _show(look, as_json, watch)


def _folder(state: Path) -> Path:
    """Return the state folder that `state` is, or that the settings file `state` names. Raises SettingsError."""
    return state.resolve().parent / load_aggregator(state).state if state.is_file() else state


def _show(look: Callable[[], Found], as_json: bool, watch: bool) -> None:
    if watch:
        screens.watch(lambda: _lines(look()) if as_json else look().screen, Console())
    elif as_json:
        print(json.dumps(look().facts, indent=1))
    else:
        Console().print(look().screen.table)


def _lines(found: Found) -> Screen:
    """One line of JSON in place of a screen."""
    return Screen(None, [json.dumps(found.facts)])
