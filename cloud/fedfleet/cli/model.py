"""`fedfleet model`: the global models that an aggregator has made."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfleet.cli.options import AsJson
from fedfleet.cli.terminal import announce, interruptible, needs
from fedfleet.cloud import registry
from fedfleet.cloud.combine import ALL
from fedfleet.cloud.combine.versions import scored
from fedfleet.cloud.federated import brief, told
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.refine.plan import Refinement
from fedfleet.cloud.registry import Version
from fedfleet.models.quiet import quiet
from fedfleet.wire.errors import StoreError
from fedfleet.wire.examples import read

State = Annotated[Path, typer.Argument(help="The aggregator's state folder.")]
Which = Annotated[str, typer.Argument(help="A round, or a name that was given.")]
EXAMPLE = "[bold]examples[/bold]\n\nfedfleet model "


class Column(NamedTuple):
    """What a list of models has only where one of them has something to say there."""

    title: str
    of: Callable[[Version], str]


JUDGED = (
    Column("on devices", lambda version: brief(version.federated) if version.federated else ""),
    Column("gate", lambda version: version.gate.partition(":")[0]),
    Column("refined", lambda version: _how(version.refined) if version.refined else ""),
    Column("trained on", lambda version: str((version.training or {}).get("data", ""))),
)

app = typer.Typer(
    help="The global models that an aggregator has made: where each comes from, which one is in use.",
    epilog=f"{EXAMPLE}list state/cloud\n\nfedfleet model promote state/cloud 12",
    no_args_is_help=True,
)


@app.command("list", epilog=f"{EXAMPLE}list state/cloud\n\nfedfleet model list state/cloud --json > models.json")
def listed(state: State, as_json: AsJson = False) -> None:
    """List all models, oldest first; also while the aggregator runs."""
    found = registry.versions(state)
    if as_json:
        _print([facts(version) for version in found])
        return
    table = Table(box=box.ROUNDED, border_style="dim")
    more = [column for column in JUDGED if any(column.of(version) for version in found)]
    titles = ("model", "ended (UTC)", "devices", "examples", "metrics", "weights", "names")
    for title in (*titles, *(column.title for column in more)):
        table.add_column(title, overflow="fold")
    for version in found:
        sign = "from" if version.training else "="
        made = f"{version.round}" if version.origin is None else f"{version.round} {sign} {version.origin}"
        weights = version.weights[:12] + ("" if version.kept else " (not kept)")
        devices, examples = len(version.contributors), version.examples
        cells = (made, version.ended, devices, f"{examples:,}", scores(version), weights, ", ".join(version.names))
        table.add_row(*(Text(str(cell)) for cell in (*cells, *(column.of(version) for column in more))))
    Console().print(table)


@app.command(epilog=f"{EXAMPLE}show state/cloud 12\n\nfedfleet model show state/cloud promoted --json")
def show(state: State, which: Which, as_json: AsJson = False) -> None:
    """Show one model's lineage: plan, strategy, contributors and their examples, digests, metrics, times."""
    version = registry.find(registry.versions(state), which)
    found = facts(version)
    if as_json:
        _print(found)
        return
    found["federated"] = told(version.federated) if version.federated else ""
    found["refined"] = version.refined and f"{version.refined}; from weights {version.refined.averaged[:12]}"
    table = Table(box=box.ROUNDED, border_style="dim", show_header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in found.items():
        table.add_row(name, Text(_said(value)))
    Console().print(table)


@app.command(epilog=f"{EXAMPLE}promote state/cloud 12\n\nfedfleet model promote state/cloud 12 --name plant-3")
def promote(
    state: State,
    which: Which,
    name: Annotated[str, typer.Option(help="The name that it gets.")] = registry.PROMOTED,
    force: Annotated[bool, typer.Option("--force", help="Also where it is worse, or has no metric.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a model a name, by which it is kept; refused where it is worse than the one that has the name now."""
    found = registry.promote(state, which, name, force=force)
    _print(facts(found)) if as_json else print(f"{name}: model {found.round}, {scores(found)}")


@app.command(epilog=f"{EXAMPLE}rollback state/cloud 12\n\nfedfleet model rollback state/cloud promoted")
def rollback(state: State, which: Which, as_json: AsJson = False) -> None:
    """Go back to an older model: the next round starts from its weights, bit for bit. Stop the aggregator first."""
    origin = registry.find(registry.versions(state), which)
    journal = Journal(state)
    try:
        number = journal.roll_back(origin.round)
    finally:
        journal.close()
    found = registry.find(registry.versions(state), str(number))
    said = f"model {number} is model {origin.round} again; the aggregator goes on from it at its next start"
    _print(facts(found)) if as_json else print(said)


@app.command(epilog=f"{EXAMPLE}export state/cloud promoted --out build/promoted")
def export(
    state: State,
    which: Which,
    out: Annotated[Path, typer.Option(help="Folder for program.tflite, weights.bin and program.json.")],
    as_json: AsJson = False,
) -> None:
    """Write the program folder of a model, as `fedfleet compile` does, with the model's weights to start from."""
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out} is no folder; choose another one")
    found = registry.find(registry.versions(state), which)
    registry.exported(state, found).save(out)
    _print({**facts(found), "out": str(out)}) if as_json else print(f"exported: model {found.round} is in {out}")


@app.command(
    epilog=f"{EXAMPLE}evaluate state/cloud --data npz:held-out.npz\n\n"
    "fedfleet model evaluate state/cloud 10 promoted --data npz:held-out.npz --model my_model.py:build --replicas 4"
)
def evaluate(
    state: State,
    data: Annotated[str, typer.Option(help="npz:FILE | csv:FILE?label=COL")],
    which: Annotated[list[str] | None, typer.Argument(help="Rounds, or names; all that are kept without.")] = None,
    model: Annotated[
        str, typer.Option(help="The Keras model, as FILE.py:FUNCTION, to run on replicas; without: the device program.")
    ] = "",
    replicas: Annotated[int, typer.Option(help="GPUs, or parts of the CPU, for --model; -1: all GPUs.")] = ALL,
    as_json: AsJson = False,
) -> None:
    """Score several models at once on data of your own; nothing is written to the state folder."""
    announce(f"fedfleet model evaluate: {', '.join(which or ['all that are kept'])} on {data}", aside=as_json)
    # what the user's own code prints must not get into the JSON
    aside = redirect_stdout(sys.stderr if as_json else sys.stdout)
    with (
        interruptible(),
        needs("cloud"),
        tempfile.TemporaryDirectory() as folder,
        quiet(Path(folder) / "tensorflow.log"),
        aside,
    ):
        found = scored(state, which or [], read(data), model, replicas)
    if as_json:
        _print([{**facts(version), "scores": scores} for version, scores in found])
        return
    table = Table(box=box.ROUNDED, border_style="dim")
    for title in ("model", *found[0].scores, "names"):
        table.add_column(title, justify="left" if title == "names" else "right")
    for version, scores in found:
        figures = ("no number" if value is None else f"{value:.4f}" for value in scores.values())
        table.add_row(str(version.round), *figures, Text(", ".join(version.names)))
    Console().print(table)


def facts(version: Version) -> dict[str, Any]:
    """Return what `--json` prints of a model."""
    return {**asdict(version), "examples": version.examples}


def scores(version: Version) -> str:
    """Return a model's metrics in a line."""
    known = {name: value for name, value in version.scores.items() if value is not None}
    return ", ".join(f"{name} {value:.4f}" for name, value in known.items()) or "no metrics"


def _how(refined: Refinement) -> str:
    return refined.kind if refined.taken else f"{refined.kind}, not taken"


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items()) or "-"
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return "-" if value in (None, "") else str(value)


def _print(found: Any) -> None:
    print(json.dumps(found, indent=1))
