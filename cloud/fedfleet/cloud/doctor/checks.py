"""All checks of the cloud's side, in their order: of an aggregator by its settings, of an authority by its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedfleet.cloud import fleet
from fedfleet.cloud.doctor import aggregating, certifying, subject
from fedfleet.cloud.doctor.subject import Authority, Cloud, Visitor
from fedfleet.cloud.identity import folder
from fedfleet.cloud.settings import load_aggregator
from fedfleet.wire.doctor import accepts, credentials, kept, network
from fedfleet.wire.doctor.checkup import Cause, Check, Finding, beside, examine, failed, fine, nothing_more
from fedfleet.wire.errors import FrameError, SettingsError
from fedfleet.wire.messages import Task, decode

S = TypeVar("S", Cloud, Authority)
WRONG = Cause("settings-wrong", "the settings cannot be used", "correct {file}")
NO_PKI = Cause("pki-wrong", "the folder is no authority's", "fedfleet pki init makes one; fleet.toml must be in it")
UNREADABLE = Cause(
    "task-unreadable", "what is retained as the task is none", "see who writes there; start the aggregator"
)
AGGREGATOR_SAYS = Cause("mqtt-aggregator", "the aggregator that runs has no link to its broker", "do what it says")
ALONE = beside("the aggregator runs, and would be thrown out; ask again by the authority's folder, as its operator")


def _let_in(visitor: Visitor) -> Finding:
    missing = accepts.without_password(visitor.broker)
    return missing or accepts.let_in(visitor.talk, visitor.broker, visitor.name)


def _task(visitor: Visitor) -> Finding:
    payload = visitor.talk.delivered.get(visitor.topics.task)
    if not payload:
        return beside("no task is retained there")
    try:
        task = decode(Task, payload)
    except FrameError as error:
        return failed(UNREADABLE, str(error))
    return fine(f"round {task.round}")


WITHIN = Check[Path]("settings", (), lambda file: _loaded(file)[0], (WRONG,))
FOLDER = Check[Path]("pki", (), lambda pki: _opened(pki)[0], (NO_PKI,))
COMMON: tuple[Check[Visitor], ...] = (
    Check("clock", (), lambda visitor: credentials.clock(visitor.owner), credentials.CLOCK),
    Check("authority", (), lambda visitor: credentials.authority(visitor.owner), (credentials.CA_MISSING,)),
    Check("certificate", ("clock", "authority"),
          lambda visitor: credentials.certificate(visitor.owner), credentials.OWN),
    Check("name", (), lambda visitor: network.name(visitor.broker), network.NAME),
    Check("port", ("name",), lambda visitor: network.port(visitor.broker), network.PORT),
    Check("tls", ("port", "clock", "authority", "certificate"),
          lambda visitor: network.handshake(visitor.broker, visitor.name), network.TLS),
    Check("mqtt", ("tls",), _let_in, (*accepts.MQTT, AGGREGATOR_SAYS)),
    Check("acl", ("mqtt",), lambda visitor: accepts.delivered(visitor.talk, visitor.say, visitor.name), accepts.ACL),
    Check("packets", ("mqtt",),
          lambda visitor: accepts.roomy(visitor.talk, visitor.topics, visitor.name), accepts.PACKETS),
    Check("task", ("acl",), _task, (UNREADABLE,)),
)  # fmt: skip
ASKED = ("mqtt", "acl", "packets", "task")  # what takes a conversation under a name that only one may have


def _lifted(check: Check[Visitor], look: Callable[[S, Check[Visitor]], Finding], *needs: str) -> Check[S]:
    """The check of a visitor as one of whom it comes from, which may have more needs."""
    return Check(check.name, (*check.needs, *needs), lambda whole: look(whole, check), check.causes)


def _by_aggregator(cloud: Cloud, check: Check[Visitor]) -> Finding:
    if check.name not in ASKED or not cloud.runs:
        return check.look(cloud.visitor)
    if check.name != "mqtt":
        return ALONE
    why = fleet.fleet(cloud.state).now.link
    return failed(AGGREGATOR_SAYS, f"it says: {why}") if why else fine("the aggregator runs, and names no trouble")


def _by_operator(authority: Authority, check: Check[Visitor]) -> Finding:
    return check.look(authority.visitor)


MORE = {"mqtt": ("journal",)}
AGGREGATOR: tuple[Check[Cloud], ...] = (
    Check("model", (), aggregating.model, (aggregating.MODEL,)),
    Check("state", (), aggregating.state, kept.STATE),
    Check("disk", ("state",), aggregating.disk, (aggregating.LITTLE,)),
    Check("journal", ("state",), aggregating.journal, (aggregating.JOURNAL,)),
    Check("metrics", ("journal",), aggregating.metrics, (aggregating.PORT_TAKEN,)),
    *(_lifted(check, _by_aggregator, *MORE.get(check.name, ())) for check in COMMON),
)
ABOVE = {"certificate": ("keys",), "tls": ("server",), "mqtt": ("crl",)}
FIRST = [_lifted(check, _by_operator) for check in COMMON[:2]]
AUTHORITY: tuple[Check[Authority], ...] = (
    Check("keys", (), certifying.keys, (certifying.OPEN_KEY,)),
    Check("ledger", (), certifying.ledger, certifying.LEDGER),
    Check("disk", (), certifying.disk, (certifying.LITTLE,)),
    *FIRST,
    Check("ca", ("clock", "authority"), certifying.ca, certifying.CA),
    Check("crl", ("clock", "authority"), certifying.crl, certifying.CRL),
    Check("server", ("clock", "authority"), certifying.server, certifying.SERVER),
    *(_lifted(check, _by_operator, *ABOVE.get(check.name, ())) for check in COMMON[2:]),
)


def look(path: Path) -> tuple[str, dict[str, Finding]]:
    """Return which side it is, `aggregator` or `authority`, and what all of its checks come to."""
    if path.is_dir():
        found, authority = _opened(path)
        before = {FOLDER.name: found}
        return "authority", examine(AUTHORITY, authority, before) if authority else nothing_more(AUTHORITY, before)
    found, cloud = _loaded(path)
    before = {WITHIN.name: found}
    return "aggregator", examine(AGGREGATOR, cloud, before) if cloud else nothing_more(AGGREGATOR, before)


def _loaded(file: Path) -> tuple[Finding, Cloud | None]:
    try:
        settings = load_aggregator(file)
    except SettingsError as error:
        return failed(WRONG, str(error), file=file), None
    return fine(f"fleet {settings.fleet}, {settings.strategy}"), subject.aggregator(settings, file)


def _opened(pki: Path) -> tuple[Finding, Authority | None]:
    try:
        found = folder.read(pki)
    except SettingsError as error:
        return failed(NO_PKI, str(error)), None
    return fine(f"fleet {found.fleet}, broker {found.hosts[0]}:{found.port}"), subject.authority(pki, found)
