"""`fedfleet release`: new versions of the agent, signed with the owner's keys and handed out by the broker."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfleet.cli.options import AsJson
from fedfleet.cli.terminal import announce, interruptible, needs
from fedfleet.cloud.releases import published as repositories
from fedfleet.cloud.releases.published import Listed, Published
from fedfleet.cloud.releases.serving import Serving
from fedfleet.cloud.settings import AggregatorSettings, load_aggregator
from fedfleet.wire.errors import BusDown, SettingsError
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.record import Mismatch
from fedfleet.wire.topics import Topics

Repo = Annotated[Path, typer.Argument(help="The repository of releases.")]
Keys = Annotated[Path, typer.Option(help="The folder that has the keys to sign with.")]
EXAMPLE = "[bold]examples[/bold]\n\nfedfleet release "
PATIENCE = 600.0

app = typer.Typer(
    help="New versions of the agent: signed with keys that you keep, handed out over the air.",
    epilog=f"{EXAMPLE}init keys releases\n\nfedfleet release add releases bundle --keys keys\n\n"
    "fedfleet release publish fleet.toml releases 0.2.0 --groups line-1",
    no_args_is_help=True,
)


class Role(StrEnum):
    """Whose keys are changed."""

    root = "root"
    targets = "targets"
    snapshot = "snapshot"
    timestamp = "timestamp"


@app.command(
    epilog=f"{EXAMPLE}init keys releases\n\nfedfleet release init keys releases --root-keys 3 --root-threshold 2"
)
def init(
    keys: Annotated[Path, typer.Argument(help="A new folder for the keys; take those of root and targets offline.")],
    repo: Repo,
    root_keys: Annotated[int, typer.Option(min=1, max=16, help="How many keys may sign who else may sign.")] = 2,
    root_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of these it takes.")] = 1,
    targets_keys: Annotated[int, typer.Option(min=1, max=16, help="How many keys may sign releases.")] = 1,
    targets_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of these it takes.")] = 1,
) -> None:
    """Make the keys, and an empty repository signed with them; `root.json` goes to the boards."""
    if root_threshold > root_keys or targets_threshold > targets_keys:
        raise SettingsError("a threshold must be at most the number of keys")
    if keys.exists() and any(keys.iterdir()):
        raise SettingsError(f"{keys} is not empty; keys are made in a folder of their own")
    with needs("cloud"):
        from fedfleet.cloud.releases import keys as making
        from fedfleet.cloud.releases.repository import Repository
    counts = {"root": root_keys, "targets": targets_keys, "snapshot": 1, "timestamp": 1}
    made = {role: making.make(keys, role, count) for role, count in counts.items()}
    Repository.init(repo, made, {"root": root_threshold, "targets": targets_threshold})
    announce(f"keys are in {keys}: keep root-*.pem and targets-*.pem where no network is, and a copy of each")
    announce(f"boards get {repo / 'metadata' / '1.root.json'} as root.json, named by release.root in agent.toml")


@app.command(epilog=f"{EXAMPLE}add releases bundle --keys keys")
def add(
    repo: Repo, bundle: Annotated[Path, typer.Argument(help="The folder of a bundle (fedfleet bundle).")], keys: Keys
) -> None:
    """Sign a bundle as a release; one that was there already becomes the newest again."""
    with needs("cloud"):
        from fedfleet.cloud.releases import bundles
        from fedfleet.cloud.releases import keys as making
        from fedfleet.cloud.releases.repository import Repository
    found, missing = bundles.add(Repository(repo), bundle, making.load(keys))
    announce(f"version {found.version} for {found.machine} with Python {found.python}: {_outcome(repo, missing)}")


@app.command(epilog=f"{EXAMPLE}sign releases --keys /media/safe")
def sign(repo: Repo, keys: Keys) -> None:
    """Add the signatures of more keys to what lacks some."""
    with needs("cloud"):
        from fedfleet.cloud.releases import keys as making
        from fedfleet.cloud.releases.repository import Repository
    announce(_outcome(repo, Repository(repo).sign(making.load(keys))))


@app.command(epilog=f"{EXAMPLE}refresh releases --keys keys")
def refresh(repo: Repo, keys: Keys) -> None:
    """Sign a new timestamp and snapshot, before the old ones expire: devices install nothing by expired ones."""
    with needs("cloud"):
        from fedfleet.cloud.releases import keys as making
        from fedfleet.cloud.releases.repository import DAYS, Repository
    Repository(repo).refresh(making.load(keys))
    announce(f"refreshed; do it again within {DAYS['timestamp']} days")


@app.command(
    epilog=f"{EXAMPLE}rotate releases --keys keys\n\nfedfleet release rotate releases --role timestamp --keys keys"
)
def rotate(
    repo: Repo,
    keys: Keys,
    role: Annotated[Role, typer.Option(help="Whose keys are changed.")] = Role.root,
    count: Annotated[int, typer.Option(max=16, help="How many new keys are made; as many as there were without.")] = 0,
    threshold: Annotated[int, typer.Option(max=16, help="How many of these it takes; as many as before without.")] = 0,
) -> None:
    """Make new keys for a role beside the old ones, and sign that only the new ones count from now on."""
    with needs("cloud"):
        from fedfleet.cloud.releases import keys as making
        from fedfleet.cloud.releases.repository import Repository
    known, found = making.load(keys), Repository(repo)
    now = found.root.signed.roles[role.value]
    count, threshold = count or len(now.keyids), threshold or now.threshold
    if threshold > count:
        raise SettingsError("a threshold must be at most the number of keys")
    missing = found.rotate(role.value, making.make(keys, role.value, count), threshold, known)
    announce(f"new keys of {role.value} are in {keys}: {_outcome(repo, missing)}")


@app.command("list", epilog=f"{EXAMPLE}list releases\n\nfedfleet release list releases --json")
def listed(repo: Repo, as_json: AsJson = False) -> None:
    """List all releases, oldest first."""
    found, out = repositories.listed(repo), repositories.published(repo)
    if as_json:
        print(json.dumps([_facts(each, out) for each in found], indent=1))
        return
    table = Table(box=box.ROUNDED, border_style="dim")
    for title in ("serial", "version", "for", "files", "MB", "handed out to"):
        table.add_column(title)
    for each in found:
        size = sum(blob.size for blob in each.files.values()) / 1e6
        cells = (str(each.serial), each.version, each.board, str(len(each.files)), f"{size:.1f}", _whom(each, out))
        table.add_row(*map(Text, cells))
    Console().print(table)


@app.command(epilog=f"{EXAMPLE}show releases 0.2.0")
def show(repo: Repo, version: str, as_json: AsJson = False) -> None:
    """Show the files of one release."""
    out = repositories.published(repo)
    found = [each for each in repositories.listed(repo) if each.version == version]
    if not found:
        raise SettingsError(f"{repo} has no version {version}; see fedfleet release list")
    if as_json:
        print(json.dumps([_facts(each, out) for each in found], indent=1))
        return
    for each in found:
        announce(f"{each.version} for {each.board}, serial {each.serial}, {_whom(each, out) or 'not handed out'}")
        for name, blob in each.files.items():
            announce(f"  {blob.digest}  {blob.size:>10,}  {name}")


@app.command(
    epilog=f"{EXAMPLE}publish fleet.toml releases 0.2.0\n\n"
    "fedfleet release publish fleet.toml releases 0.2.0 --groups line-1 --share 0.1"
)
def publish(
    settings: Annotated[Path, typer.Argument(help="The aggregator's settings (TOML).")],
    repo: Repo,
    version: str,
    groups: Annotated[list[str] | None, typer.Option(help="For devices with this tag; may be given again.")] = None,
    share: Annotated[float, typer.Option(help="For this share of them.")] = 1.0,
) -> None:
    """Hand a release out: by the aggregator whose settings name the repository, else from here, once."""
    found = load_aggregator(settings)
    try:
        what = Published(version, tuple(groups or ()), share)
    except Mismatch as error:
        raise SettingsError(str(error)) from None
    repositories.publish(repo, what)
    named = found.releases.repository
    if named and (settings.resolve().parent / named).resolve() == repo.resolve():
        announce(f"version {version} is published; the aggregator of fleet {found.fleet} hands it out")
        return
    with interruptible():
        _hand_out(found, repo)
    announce(f"version {version} is on the broker; set [releases] repository for an aggregator that says it again")


def _hand_out(settings: AggregatorSettings, repo: Path) -> None:
    bus = MqttBus(settings.broker, f"{settings.fleet}-release")
    try:
        serving, end = Serving(repo, bus, Topics(settings.fleet), time.monotonic), time.monotonic() + PATIENCE
        serving.step()
        while not serving.idle or bus.pending:
            bus.deliveries(0.05)
            serving.step()
            if time.monotonic() > end:
                raise BusDown(f"the broker has not taken all in {PATIENCE:g} s: {bus.reason}; publish again")
    finally:
        bus.close()


def _outcome(repo: Path, missing: str) -> str:
    return f"{missing}: fedfleet release sign {repo} --keys OTHERS" if missing else "signed"


def _whom(release: Listed, out: Published | None) -> str:
    if out is None or out.version != release.version:
        return ""
    groups = f"groups {', '.join(out.groups)}" if out.groups else "all"
    return f"{groups}, share {out.share:g}" if out.share < 1 else groups


def _facts(release: Listed, out: Published | None) -> dict[str, object]:
    return {**asdict(release), "handed_out_to": _whom(release, out)}
