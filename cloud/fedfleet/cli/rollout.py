"""`fedfleet rollout`: a release of the agent, or a model, for one group after the other."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfleet.cli.options import AsJson
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.rollout import canary, course, releasing
from fedfleet.cloud.rollout.canary import Canary
from fedfleet.cloud.rollout.course import Group, Rollout
from fedfleet.cloud.settings import load_aggregator
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.record import Mismatch

Settings = Annotated[Path, typer.Argument(help="The aggregator's settings (TOML).")]
EXAMPLE = "[bold]examples[/bold]\n\nfedfleet rollout "
EVERYONE = "all"

app = typer.Typer(
    help="A release of the agent, or a model, for one group after the other; what fails is taken back.",
    epilog=f"{EXAMPLE}start fleet.toml 0.2.0 --group canary --group line-1,line-2 --group all\n\n"
    "fedfleet rollout status fleet.toml",
    no_args_is_help=True,
)


@app.command(
    epilog=f"{EXAMPLE}start fleet.toml 0.2.0 --group canary --group line-1,line-2 --group all --approve all\n\n"
    "fedfleet rollout start fleet.toml 0.2.0 --share 0.05 --share 0.25 --share 1 --success 0.95 --error 0.05"
)
def start(
    settings: Settings,
    version: Annotated[str, typer.Argument(help="A version of the repository.")],
    group: Annotated[list[str] | None, typer.Option(help="Tags, by commas, or all; again for the next group.")] = None,
    share: Annotated[list[float] | None, typer.Option(help="In place of groups: a share of the fleet.")] = None,
    success: Annotated[float, typer.Option(help="Share of a group that must have it well before the next.")] = 1.0,
    error: Annotated[float, typer.Option(help="Share of a group that, if it fails, stops everything.")] = 0.1,
    approve: Annotated[list[str] | None, typer.Option(help="A group that you open by hand.")] = None,
    back: Annotated[str, typer.Option(help="The version to go back to; what is handed out now without.")] = "",
    keys: Annotated[Path | None, typer.Option(help="Keys to sign the way back by; you sign it without.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hand a release out to the first group; the aggregator goes on from there."""
    if bool(group) == bool(share):
        raise SettingsError("name groups with --group, or shares of the fleet with --share")
    unknown = set(approve or ()) - set(group or map(str, share or ()))
    if unknown:
        raise SettingsError(f"--approve {', '.join(sorted(unknown))} is none of the groups")
    try:
        groups = [Group(_tags(name), 1.0, success, error, name in (approve or ())) for name in group or ()]
        groups += [Group((), part, success, error, str(part) in (approve or ())) for part in share or ()]
        found = releasing.start(_repo(settings), version, groups, back, str(keys.resolve()) if keys else "")
    except Mismatch as mismatch:
        raise SettingsError(str(mismatch)) from None
    _print(settings, found, as_json)


@app.command(epilog=f"{EXAMPLE}status fleet.toml\n\nfedfleet rollout status fleet.toml --json")
def status(settings: Settings, as_json: AsJson = False) -> None:
    """Show how far a rollout is: each group, how many have it well, and how many failed; and a model on its way."""
    repo, state = _repository(settings), _state(settings)
    _print(settings, releasing.kept(repo).read() if repo else None, as_json, canary.kept(state).read())


@app.command(epilog=f"{EXAMPLE}pause fleet.toml")
def pause(settings: Settings, as_json: AsJson = False) -> None:
    """Open no more groups; what fails meanwhile stops the rollout all the same."""
    _print(settings, releasing.order(_repo(settings), course.paused), as_json)


@app.command(epilog=f"{EXAMPLE}resume fleet.toml")
def resume(settings: Settings, as_json: AsJson = False) -> None:
    """Go on after a pause."""
    _print(settings, releasing.order(_repo(settings), course.resumed), as_json)


@app.command(epilog=f"{EXAMPLE}approve fleet.toml")
def approve(settings: Settings, as_json: AsJson = False) -> None:
    """Open the group that waits for it."""
    _print(settings, releasing.order(_repo(settings), course.approved), as_json)


@app.command(
    epilog=f"{EXAMPLE}abort fleet.toml --reason 'line 2 stands still'\n\nfedfleet rollout abort fleet.toml --model"
)
def abort(
    settings: Settings,
    reason: Annotated[str, typer.Option(help="Why; it stands in the status.")] = "by hand",
    model: Annotated[bool, typer.Option("--model", help="The model that is on its way, not the release.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop, and take back what was handed out."""
    if model:
        _print(settings, None, as_json, canary.order_back(_state(settings), reason))
        return
    _print(settings, releasing.order(_repo(settings), lambda found: course.stopped(found, reason)), as_json)


@app.command(epilog=f"{EXAMPLE}model fleet.toml 12 --tag canary --devices 3")
def model(
    settings: Settings,
    which: Annotated[str, typer.Argument(help="A model: its round, or its name.")],
    tag: Annotated[list[str], typer.Option(help="Its first devices have this tag; all of them where given again.")],
    devices: Annotated[int, typer.Option(help="How many of these must evaluate it.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Bring a model to some devices first, by whom it is promoted or taken back. Stop the aggregator first."""
    found = load_aggregator(settings)
    journal = Journal(_state(settings))
    try:
        begun = canary.start(journal, which, found.evaluation, found.rounds, tuple(tag), devices)
    except Mismatch as mismatch:
        raise SettingsError(str(mismatch)) from None
    finally:
        journal.close()
    _print(settings, None, as_json, begun)


def _tags(name: str) -> tuple[str, ...]:
    return () if name == EVERYONE else tuple(tag.strip() for tag in name.split(","))


def _state(settings: Path) -> Path:
    return settings.resolve().parent / load_aggregator(settings).state


def _repository(settings: Path) -> Path | None:
    named = load_aggregator(settings).releases.repository
    return settings.resolve().parent / named if named else None


def _repo(settings: Path) -> Path:
    found = _repository(settings)
    if found is None:
        raise SettingsError(f"{settings}: [releases] repository is not set: name the folder of fedfleet release there")
    return found


def facts(settings: Path, rollout: Rollout | None, model: Canary | None) -> dict[str, Any]:
    """Return what `--json` prints: the rollout with a count of each group, and the model that is on its way."""
    found: dict[str, Any] = {"rollout": None, "model": asdict(model) if model else None}
    if rollout is not None:
        counts = course.counted(rollout, releasing.reports(_state(settings), rollout.version))
        groups = [
            {**asdict(group), "opened": number < rollout.opened, **asdict(count)}
            for number, (group, count) in enumerate(zip(rollout.groups, counts))
        ]
        aborted = rollout.state == "aborted"
        signed = not aborted or releasing.returns(_repo(settings), rollout)
        found["rollout"] = {**asdict(rollout), "groups": groups, "way_back_signed": signed}
    return found


def _print(settings: Path, rollout: Rollout | None, as_json: bool, model: Canary | None = None) -> None:
    found = facts(settings, rollout, model)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    if rollout is not None:
        print(f"rollout of {rollout.version} over {rollout.before}: {releasing.said(rollout)}")
        Console().print(_table(rollout, found["rollout"]["groups"]))
        if not found["rollout"]["way_back_signed"]:
            repo = _repo(settings)
            print(f"devices that have {rollout.version} well keep it until the way back is signed:")
            print(f"  fedfleet release add {repo} BUNDLE --keys KEYS    # the bundle of {rollout.before}")
    if model is not None:
        waits = f"waits for {model.devices} devices with {', '.join(model.tags)}"
        ordered = f"to be taken back: {model.ordered}" if model.ordered else waits
        print(f"model {model.origin}, brought as model {model.model}: {model.ended or ordered}")
    if rollout is None and model is None:
        print("nothing is on its way")


def _table(rollout: Rollout, counts: list[dict[str, Any]]) -> Table:
    table = Table(box=box.ROUNDED, border_style="dim")
    for title in ("group", "", "devices", "well", "failed", "exposed", "why"):
        table.add_column(title, justify="left" if title in ("group", "", "why") else "right")
    for number, (group, count) in enumerate(zip(rollout.groups, counts)):
        now = "open" if count["opened"] else "waits" if rollout.state == "waiting" and number == rollout.opened else ""
        why = next((f"{device}: {text}" for device, text in sorted(count["reasons"].items())), "")
        figures = (str(count[name]) for name in ("devices", "well", "failed", "exposed"))
        table.add_row(*map(Text, (str(group), now, *figures, why)))
    return table
