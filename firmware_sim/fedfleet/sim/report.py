"""What a run shows, as one HTML page that needs nothing else, and as the rows of the final answer."""

from __future__ import annotations

import math
import statistics
from html import escape
from pathlib import Path
from typing import NamedTuple

from fedfleet.sim import plots
from fedfleet.sim.markup import grid, pairs, style, template
from fedfleet.sim.record import Run, cells, columns, number_text, read, score, score_text, size_text
from fedfleet.wire import files

PAGE = "report.html"
TEMPLATE = "report.html.in"
MEAN = "The mean of all devices' models, which no device holds,"
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
    path = folder / PAGE
    files.write(path, template(TEMPLATE).substitute(_fields(run)).encode("utf-8", "replace"))
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
        (f"{_way(run)}, {state(run)}", score_text(found.federation, metric, unit), sent),
        *_apart(run),
        *_on_devices(run),
        ("all data in one place", score_text(found.central, metric, unit), pooled),
    ]


def _way(run: Run) -> str:
    """What the score is of: the aggregator's model, or a mean that nobody holds."""
    return "gossip, mean of all models" if run.gossips else "federation"


def _apart(run: Run) -> list[tuple[str, ...]]:
    """Rows for what devices that gossip do hold: each a model of its own."""
    last, facts = _gossiped(run) if run.gossips else {}, run.facts
    if last.get("worst") is None or last["distance"] is None:
        return []
    left = f"the same; models are {number_text(100 * last['distance'], 2)} % from their mean (rms)"
    names = {"gossip, devices' own models, mean": "mean", "gossip, worst device's own model": "worst"}
    return [(name, score_text(last[key], facts.metric, facts.unit), left) for name, key in names.items()]


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
        **(_gossiped(run) if run.gossips else {"federation": found.federation}),
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


def _gossiped(run: Run) -> dict[str, float | None]:
    """The figures of a run without an aggregator: of the mean of all models, of the devices' own, how far apart."""
    last, metric = run.rounds[-1].scores if run.rounds else {}, run.facts.metric
    return {
        "consensus": answer(run).federation,
        "mean": last.get(f"mean_{metric}"),
        "worst": last.get(f"worst_{metric}"),
        "distance": last.get("distance"),
    }


def state(run: Run) -> str:
    """How far the run came: `20 rounds`, or `interrupted after 7 rounds`."""
    count = sum(record.state == "closed" for record in run.rounds)
    text = f"{count} round{'' if count == 1 else 's'}"
    return text if run.finished else f"interrupted after {text}"


def verdict(run: Run) -> str:
    """What learning together changed for a device, in one sentence that claims no more than the scores say."""
    found, metric, unit = answer(run), run.facts.metric, run.facts.unit
    reached, who, doing = found.federation, "The federation", "Federating"
    if run.gossips:  # what a device holds then is a model of its own
        reached, who, doing = _gossiped(run)["mean"], "After gossip a device, on average,", "Gossip"
    if reached is None:
        return "No round has a score yet."
    if not math.isfinite(reached):
        return "The model diverged: lower the learning rate."
    text = score_text(reached, metric, unit)
    if found.mean is None or not math.isfinite(found.mean):
        return f"{who} reached {text}; what each device reaches alone was not computed."
    sign = 1 if metric == "accuracy" else -1
    gain, alone = sign * (reached - found.mean), score_text(found.mean, metric, unit)
    if gain <= 0:
        return f"{doing} did not help here: {text}, where a device alone reaches {alone} on average."
    gap = None if found.central is None else sign * (found.central - found.mean)
    return f"{doing} took a device from {alone} (alone, on average) to {text}{_share(gain, gap)}."


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
        "style": style(),
        "id": escape(facts.id),
        "question": f"What did {'gossip' if run.gossips else 'federating'} buy me?",
        "scored": MEAN if run.gossips else "The global model",
        "head": escape(f"{facts.data} · {facts.devices} devices · {facts.split} · {facts.strategy}"),
        "state": escape(state(run)),
        "mood": "done" if run.finished else "cut",
        "verdict": escape(verdict(run)),
        "tiles": _tiles(run),
        "answer": grid(rows[0], rows[1:], numeric=(facts.metric,)),
        "by_round": plots.score_by_round(run),
        "by_megabytes": plots.score_by_megabytes(run),
        "by_device": plots.examples_by_device(run),
        "by_time": plots.time_and_reports(run),
        "mishaps": _mishaps(run),
        "rounds": grid(titles, rounds, numeric=(*NUMBERS, facts.metric)),
        "settings": pairs(_settings(run)),
        "versions": pairs(sorted(facts.versions.items())),
        "digests": pairs(_digests(run)),
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
        (
            score_text(found.federation, facts.metric, facts.unit),
            f"{facts.metric} of the {'mean model' if run.gossips else 'federation'}",
        ),
        (score_text(found.mean, facts.metric, facts.unit), "each device alone, mean"),
        *([(size_text(up / max(facts.devices, 1)), "left each device, no raw data")] if facts.engine != "tff" else []),
        *([(f"{max(peaks, default=0):.0f} MiB", memory)] if facts.engine not in ("virtual", "tff") else []),
        (f"{seconds:.1f} s", state(run)),
    ]
    return "\n".join(f"<li><b>{escape(value)}</b><span>{escape(label)}</span></li>" for value, label in tiles)


def _mishaps(run: Run) -> str:
    """What went wrong on command and when, as a section of the page; nothing where nothing did."""
    if not run.happened:
        return ""
    rows = [(str(what.round), f"{what.seconds:.1f}", what.text) for what in run.happened]
    found = grid(("round", "seconds", "what was done"), rows, numeric=("round", "seconds"))
    return f'<section class="rounds"><h2>What went wrong on command</h2><div class="wide">{found}</div></section>'


def _settings(run: Run) -> list[tuple[str, str]]:
    facts = run.facts
    return [
        ("data", facts.data),
        ("split", facts.split),
        ("strategy", facts.strategy),
        ("devices", str(facts.devices)),
        *([("the cloud's own", f"{facts.cloud:,} examples; {facts.refine or 'not used'}")] if facts.cloud else []),
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
