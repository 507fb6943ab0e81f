"""What a run shows, as one HTML page that needs nothing else, and as the rows of the final answer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files as resources
from pathlib import Path
from string import Template
from typing import NamedTuple

from fedfleet.sim import plots
from fedfleet.sim.record import Run, cells, columns, read, score, score_text, size_text
from fedfleet.wire import files

PAGE = "report.html"
TEMPLATE = "report.html.in"
NUMBERS = ("round", "called", "reported", "late", "train loss", "kB up", "kB down", "seconds")


class Answer(NamedTuple):
    """The scores that answer what federating bought; `diverged` counts the devices whose own model did."""

    mean: float | None
    worst: float | None
    diverged: int
    federation: float | None
    central: float | None


def write(folder: Path) -> Path:
    """Write report.html into the run folder `folder` and return its path. Raises StoreError."""
    run = read(folder)
    template = Template(resources("fedfleet.sim").joinpath(TEMPLATE).read_text("utf-8"))
    path = folder / PAGE
    files.write(path, template.substitute(_fields(run)).encode("utf-8", "replace"))
    return path


def table(run: Run) -> list[tuple[str, ...]]:
    """What did federating buy me: a heading and a row for each way to train, with its score and what left a device."""
    metric, unit, found = run.facts.metric, run.facts.unit, answer(run)
    diverged = f" ({found.diverged} of {run.facts.devices} diverged)" if found.diverged else ""
    up = sum(record.bytes_up for record in run.rounds) if run.outcome is None else run.outcome.bytes_up
    sent = f"{size_text(up / max(run.facts.devices, 1))} of model updates, {size_text(up)} by the whole fleet"
    if run.facts.engine == "tff":
        sent = "nothing: TensorFlow Federated has no devices"
    pooled = f"its data: {sum(map(sum, run.facts.counts)):,} examples of the whole fleet"
    return [
        ("trained on", metric, "what left each device"),
        ("each device alone, mean", score_text(found.mean, metric, unit) + diverged, "nothing"),
        ("each device alone, worst", score_text(found.worst, metric, unit), "nothing"),
        (f"federation, {state(run)}", score_text(found.federation, metric, unit), sent),
        *_on_devices(run),
        ("all data in one place", score_text(found.central, metric, unit), pooled),
    ]


def _on_devices(run: Run) -> list[tuple[str, ...]]:
    """A row for the newest model that devices have evaluated, if any has been."""
    metric, unit = run.facts.metric, run.facts.unit
    judged = [record.federated for record in run.rounds if record.federated and metric in record.federated.spread]
    if not judged:
        return []
    last = judged[-1]
    low, high = (score_text(last.spread[metric][part], metric, unit) for part in ("p5", "p95"))
    left = f"sums and a count; across {last.devices} devices from {low} (p5) to {high} (p95)"
    name = f"model {last.of}, on examples that devices hold back" if last.of else "the first weights, on devices"
    return [(name, score_text(last.scores[metric], metric, unit), left)]


def answer(run: Run) -> Answer:
    """The scores of the three ways to train. Without an outcome, the federation's is that of its last scored round."""
    scored = [value for record in run.rounds if (value := score(record, run.facts.metric)) is not None]
    last = scored[-1] if scored else None
    if run.outcome is None:
        return Answer(None, None, 0, last, None)
    alone = [value for value in run.outcome.alone if value is not None and math.isfinite(value)]
    diverged = len(run.outcome.alone) - len(alone)
    worst = min if run.facts.metric == "accuracy" else max
    return Answer(
        mean=sum(alone) / len(alone) if alone else math.nan if diverged else None,
        worst=math.nan if diverged else worst(alone, default=None),
        diverged=diverged,
        federation=last if run.outcome.federation is None else run.outcome.federation,
        central=run.outcome.central,
    )


def figures(run: Run) -> dict[str, object]:
    """Return the figures of the closing line, four digits each."""
    found, outcome = answer(run), run.outcome
    values: dict[str, object] = {
        "metric": run.facts.metric,
        "federation": found.federation,
        "central": found.central,
        "alone_mean": found.mean,
        "alone_worst": found.worst,
        "rounds": len(run.rounds),
    }
    if outcome is not None:
        values |= {
            "seconds": outcome.seconds,
            "seconds_a_round": statistics.median(record.seconds for record in run.rounds),
            "device_rss_mib": outcome.device_rss_mib,
            "bytes_up": outcome.bytes_up,
            "bytes_down": outcome.bytes_down,
            "weights": outcome.weights,
        }
    return {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in values.items()}


def state(run: Run) -> str:
    """How far the run came: `20 rounds`, or `interrupted after 7 rounds`."""
    count = sum(record.state == "closed" for record in run.rounds)
    text = f"{count} round{'' if count == 1 else 's'}"
    return text if run.finished else f"interrupted after {text}"


def verdict(run: Run) -> str:
    """What federating changed, in one sentence that claims no more than the scores say."""
    found, metric, unit = answer(run), run.facts.metric, run.facts.unit
    if found.federation is None:
        return "No round has a score yet."
    if not math.isfinite(found.federation):
        return "The model diverged: lower the learning rate."
    text = score_text(found.federation, metric, unit)
    if found.mean is None or not math.isfinite(found.mean):
        return f"The federation reached {text}; what each device reaches alone was not computed."
    sign = 1 if metric == "accuracy" else -1
    gain, alone = sign * (found.federation - found.mean), score_text(found.mean, metric, unit)
    if gain <= 0:
        return f"Federating did not help here: {text}, where a device alone reaches {alone} on average."
    gap = None if found.central is None else sign * (found.central - found.mean)
    return f"Federating took a device from {alone} (alone, on average) to {text}{_share(gain, gap)}."


def _share(gain: float, gap: float | None) -> str:
    """How much of the gap to having all data in one place was closed; empty where there is none to close."""
    if gap is None or not 0 < gap < math.inf:
        return ""
    if gain >= gap:
        return ": as good as having all data in one place"
    # Rounded down, so that 100 % is never claimed for less.
    return f": {int(100 * gain / gap)} % of the way to having all data in one place"


def _fields(run: Run) -> dict[str, str]:
    """Everything the template asks for, as HTML."""
    facts, rows = run.facts, table(run)
    closing = [record.reason for record in run.rounds]
    rounds = [(*cells(r, facts.metric, facts.unit), reason) for r, reason in zip(run.rounds, closing, strict=True)]
    titles = (*columns(facts.metric), "how it ended")
    return {
        "id": escape(facts.id),
        "head": escape(f"{facts.data} · {facts.devices} devices · {facts.split} · {facts.strategy}"),
        "state": escape(state(run)),
        "mood": "done" if run.finished else "cut",
        "verdict": escape(verdict(run)),
        "tiles": _tiles(run),
        "answer": _table(rows[0], rows[1:], numeric=(facts.metric,)),
        "by_round": plots.score_by_round(run),
        "by_megabytes": plots.score_by_megabytes(run),
        "by_device": plots.examples_by_device(run),
        "by_time": plots.time_and_reports(run),
        "rounds": _table(titles, rounds, numeric=(*NUMBERS, facts.metric)),
        "settings": _pairs(_settings(run)),
        "versions": _pairs(sorted(facts.versions.items())),
        "digests": _pairs(_digests(run)),
    }


def _tiles(run: Run) -> str:
    """The few numbers that a glance should catch."""
    facts, outcome, found = run.facts, run.outcome, answer(run)
    up = sum(record.bytes_up for record in run.rounds) if outcome is None else outcome.bytes_up
    seconds = sum(record.seconds for record in run.rounds) if outcome is None else outcome.seconds
    peaks = [record.device_rss_mib for record in run.rounds] if outcome is None else [outcome.device_rss_mib]
    # In the loopback engine all devices and the aggregator are one process; a virtual device has none.
    memory = "memory of the whole simulation, peak" if facts.engine == "loopback" else "memory on a device, peak"
    tiles = [
        (score_text(found.federation, facts.metric, facts.unit), f"{facts.metric} of the federation"),
        (score_text(found.mean, facts.metric, facts.unit), "each device alone, mean"),
        *([(size_text(up / max(facts.devices, 1)), "left each device, no raw data")] if facts.engine != "tff" else []),
        *([(f"{max(peaks, default=0):.0f} MiB", memory)] if facts.engine not in ("virtual", "tff") else []),
        (f"{seconds:.1f} s", state(run)),
    ]
    return "\n".join(f"<li><b>{escape(value)}</b><span>{escape(label)}</span></li>" for value, label in tiles)


def _settings(run: Run) -> list[tuple[str, str]]:
    facts = run.facts
    return [
        ("data", facts.data),
        ("split", facts.split),
        ("strategy", facts.strategy),
        ("devices", str(facts.devices)),
        ("rounds asked for", str(facts.rounds)),
        ("seed", str(facts.seed)),
        ("engine", facts.engine),
        ("broker", facts.broker),
        ("metric", f"{facts.metric}{f' in {facts.unit}' if facts.unit else ''}"),
        ("target scale", f"{facts.scale:g}"),
        ("parameters", f"{facts.parameters:,}"),
        ("device program", size_text(facts.program_bytes)),
    ]


def _digests(run: Run) -> list[tuple[str, str]]:
    last = run.rounds[-1].weights if run.rounds else "—"
    weights = run.outcome.weights if run.outcome is not None else last
    return [("device program, sha256", run.facts.program), ("final weights, sha256", weights)]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[str]) -> str:
    """An HTML table whose first column heads its rows; the columns in `numeric` are set flush right."""
    kinds = [' class="n"' if title in numeric else "" for title in titles]
    head = "".join(f'<th scope="col"{kind}>{escape(title)}</th>' for kind, title in zip(kinds, titles, strict=True))
    body = []
    for row in rows:
        first, *rest = (escape(cell) for cell in row)
        tail = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], rest, strict=True))
        body.append(f'<tr><th scope="row"{kinds[0]}>{first}</th>{tail}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "\n".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in pairs)
    return f"<dl>\n{rows}\n</dl>" if rows else "<p>none recorded</p>"
