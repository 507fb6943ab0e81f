"""What devices made of a model: in a whole run, against the same examples in one place; in the report; in event files."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedfleet.cloud.evaluate import evaluator
from fedfleet.cloud.events import scalars
from fedfleet.cloud.federated import Federated
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import versions
from fedfleet.cloud.settings import Rounds
from fedfleet.models.compiled import load
from fedfleet.sim import record, report
from fedfleet.sim.datasets import load as load_data
from fedfleet.sim.record import Facts, Recorder, Run, read
from fedfleet.sim.simulate import simulate
from fedfleet.sim.split import split
from fedfleet.sim.stage import Simulation
from fedfleet.wire.examples import Examples, take
from fedfleet.wire.messages import Plan

SPREAD = {"accuracy": {"p5": 0.5, "p25": 0.55, "p50": 0.6, "p75": 0.7, "p95": 0.75}}
JUDGED = Federated(1, 3, 90, 0, {"accuracy": 0.625}, SPREAD)
CLOSED = RoundRecord(2, "closed", "all", 3, 3, 0, 9, 0.5, 1, 1, 0.1, "w", 0.0, {"accuracy": 0.5}, federated=JUDGED)
FACTS = Facts(
    "run", "digits", "iid", "fedavg", "mqtt", "b", 0, 1, 2, "accuracy", 1.0, "", 9, "p", 9, {}, ((1,),), ("a",)
)


def held(part: Examples, share: float) -> list[int]:
    """Which examples of a device are held back, by the rule of docs/wire.md."""
    x, y = part
    return [i for i in range(len(y)) if zlib.crc32(x[i].tobytes() + y[i].tobytes()) < share * 2**32]


@pytest.mark.filterwarnings("ignore")
def test_what_devices_say_is_what_their_held_back_examples_give_in_one_place(tmp_path: Path) -> None:
    wanted = Simulation(
        devices=3,
        rounds=Rounds(total=2, deadline=60.0),
        plan=Plan(learning_rate=0.02, momentum=0.9, holdout=0.3),
        engine="loopback",
        baselines=False,
    )
    folder = simulate(wanted, tmp_path, Console(file=io.StringIO()))
    found = read(folder)
    parts = split(wanted.split, load_data("digits", 0), 3, 0)
    own = [take(part, np.array(held(part, 0.3))) for part in parts]
    assert [record.examples for record in found.rounds] == [sum(len(a.y) - len(b.y) for a, b in zip(parts, own))] * 2
    together = Examples(*(np.concatenate(arrays) for arrays in zip(*own)))
    compiled, (first, last) = load(folder / "model"), found.rounds
    journal = Journal(folder / "cloud")
    weights = np.frombuffer(journal.blobs.get(first.weights), "<f4")
    journal.close()
    judged = last.federated
    assert first.federated is not None and judged is not None
    assert (first.federated.of, judged.of, judged.devices, judged.examples) == (0, 1, 3, len(together.y))
    assert judged.scores == pytest.approx(evaluator(compiled, together)(weights), rel=1e-5)
    each = [evaluator(compiled, part)(weights)["accuracy"] for part in own]
    assert list(judged.spread["accuracy"].values()) == pytest.approx(list(np.percentile(each, (5, 25, 50, 75, 95))))
    assert [version.federated for version in versions(folder / "cloud")] == [judged, None]
    assert "model 1, on examples that devices hold back" in (folder / "report.html").read_text()


def test_a_row_of_the_report_says_it() -> None:
    before = replace(CLOSED, round=1, federated=replace(JUDGED, of=0))
    without = report.table(Run(FACTS, [replace(one, federated=None) for one in (before, CLOSED)], None))
    shown = report.table(Run(FACTS, [before, CLOSED], None))
    assert [row for row in shown if row not in without] == [
        (
            "model 1, on examples that devices hold back",
            "62.50 %",
            "sums and a count; across 3 devices from 50.00 % (p5) to 75.00 % (p95)",
        )
    ]
    first = report.table(Run(FACTS, [before, replace(CLOSED, federated=None)], None))
    assert "the first weights, on devices" in [row[0] for row in first]
    nobody = [replace(one, federated=Federated(1, 0, 0, 3)) for one in (before, CLOSED)]
    assert report.table(Run(FACTS, nobody, None)) == without


def test_it_comes_back_from_the_run_folder(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.facts(FACTS)
    rounds = [replace(CLOSED, round=1, federated=None), replace(CLOSED, gate="model 1 promoted: accuracy")]
    for one in rounds:
        recorder.round(one)
    assert record.read(tmp_path / "run").rounds == rounds


def test_event_files_have_means_and_percentiles() -> None:
    found = {tag: value for tag, value in scalars(CLOSED).items() if tag.startswith("federated/")}
    parts = {f"federated/accuracy_{part}": value for part, value in SPREAD["accuracy"].items()}
    assert found == {"federated/accuracy": 0.625, **parts}
    assert scalars(replace(CLOSED, federated=None)).keys() == scalars(CLOSED).keys() - found.keys()
