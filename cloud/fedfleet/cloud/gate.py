"""The gate: after each round a model gets the name `promoted`, or it is said why not. Training never waits for that.

All of it is in the lineage; what a round's end did not come to, since the aggregator was killed, its next start does.
"""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import replace
from pathlib import Path

from fedfleet.cloud import schema
from fedfleet.cloud.federated import Federated, Measure, federated
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import PROMOTED, worse
from fedfleet.cloud.rounds import Round
from fedfleet.cloud.settings import Evaluation
from fedfleet.wire.record import plain


def examined(journal: Journal, round_: Round, measure: Measure) -> Federated | None:
    """Return what the devices of a round that is over made of the model that they began with, the newest yet.

    It is in the lineage before the round is closed, so no end of this process can lose it. Raises StoreError.
    """
    model, updates = journal.model(), round_.counted.values() if round_.task.evaluate else ()
    found = federated(updates, model.round if model else 0, measure)
    if found is not None:
        note(journal.folder, found)
    return found


def note(folder: Path, found: Federated) -> None:
    """Put what devices made of a model into its lineage. Raises StoreError."""
    with schema.beside(folder, writes=True) as database:
        text = json.dumps(plain(found))
        database.execute("UPDATE rounds SET federated = ? WHERE round = ?", (text, found.of))


def settle(folder: Path, evaluation: Evaluation, *, central: bool) -> None:
    """Decide on the newest model that has a score, where the aggregator was ended before that. Raises StoreError."""
    if not evaluation.gate:
        return
    scored = "scores != '{}'" if central else "federated != 'null'"
    query = f"SELECT round, gate FROM rounds WHERE state = 'closed' AND {scored} ORDER BY round DESC LIMIT 1"
    with schema.beside(folder, writes=True) as database:
        for model, gate in database.execute(query).fetchall():
            if not gate:
                _decided(database, model, evaluation, central=central)


def judged(folder: Path, record: RoundRecord, evaluation: Evaluation, *, central: bool) -> RoundRecord:
    """Return the record of a round that is over with the gate's decision, which is noted in the journal in `folder`.

    That is of the round's own model where it was scored on the cloud's data, else of the model that devices evaluated.
    Raises StoreError.
    """
    model = record.round if central else record.federated.of if record.federated else 0
    if record.state != "closed" or not evaluation.gate or not model:
        return record
    with schema.beside(folder, writes=True) as database:
        return replace(record, gate=_decided(database, model, evaluation, central=central))


def _decided(database: sqlite3.Connection, model: int, evaluation: Evaluation, *, central: bool) -> str:
    row = database.execute("SELECT round FROM marks WHERE name = ?", (PROMOTED,)).fetchone()
    holder = row[0] if row else 0
    by, where = evaluation.gate, "on the cloud's data" if central else "on devices"
    new, old = (_score(database, number, by, central=central) for number in (model, holder))
    if new is None:
        good, reason = False, f"no {by} {where}"
    elif not holder:
        good, reason = True, f"{by} {new:.4f} {where}, the first"
    elif old is None:
        good, reason = False, f"model {holder}, which is promoted, has no {by} {where} to compare with"
    else:
        good = not worse(new, old, by, evaluation.tolerance)
        limit = f" by more than {evaluation.tolerance:g}" if evaluation.tolerance else ""
        how = f"{'not ' if good else ''}worse than {old:.4f} of model {holder}{limit}"
        reason = f"{by} {new:.4f} {where}, {how}"
    if good:
        database.execute(f"INSERT OR REPLACE INTO marks VALUES (?, ?, {schema.NOW})", (PROMOTED, model))
    decision = f"{'promoted' if good else 'not promoted'}: {reason}"
    database.execute("UPDATE rounds SET gate = ? WHERE round = ?", (decision, model))
    return f"model {model} {decision}"


def _score(database: sqlite3.Connection, model: int, by: str, *, central: bool) -> float | None:
    """The score of a model, None where it has none or the score is no number."""
    row = database.execute("SELECT scores, federated FROM rounds WHERE round = ?", (model,)).fetchone()
    if row is None:
        return None
    found = (json.loads(row[0]) if central else (json.loads(row[1]) or {}).get("scores", {})).get(by)
    return float(found) if found is not None and math.isfinite(found) else None
