"""The report: one page that needs nothing else, says what the run says, and escapes what it is given."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedfleet.cloud.federation import RoundRecord
from fedfleet.sim import report
from fedfleet.sim.record import Facts, Outcome, Recorder, Run, read
from fedfleet.wire.errors import StoreError

VOID = {"meta", "br", "hr", "img", "link", "input"}
FACTS = Facts(
    id="digits-1",
    data="digits",
    split="dirichlet:0.5",
    strategy="fedavg",
    engine="mqtt",
    broker="mosquitto",
    seed=7,
    devices=2,
    rounds=3,
    metric="accuracy",
    scale=1.0,
    unit="",
    parameters=61706,
    program="9f" * 32,
    program_bytes=812_345,
    versions={"python": "3.11", "numpy": "2.4"},
    counts=((1, 2, 3), (4, 0, 6)),
    labels=("a", "b", "c"),
)
OUTCOME = Outcome(True, 3, "ab" * 32, 0.9, (0.4, 0.6), 0.95, 12.5, 55.0, 6_000_000, 7_000_000)
HOSTILE = '<script>alert("1")</script>&amp;\'$id'


def ended(number: int, accuracy: float = 0.5, state: str = "closed", reason: str = "all reported") -> RoundRecord:
    scores = {"loss": 0.4, "accuracy": accuracy}
    return RoundRecord(number, state, reason, 2, 2, 0, 16, 0.7, 10**6, 2 * 10**6, 1.5, "cd" * 32, 50.0, scores)


RUN = Run(FACTS, [ended(1, 0.5), ended(2, 0.7), ended(3, 0.9)], OUTCOME)


class Page(HTMLParser):
    """A page taken apart; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def written(folder: Path, run: Run) -> str:
    recorder = Recorder(folder)
    recorder.facts(run.facts)
    for record in run.rounds:
        recorder.round(record)
    if run.outcome is not None:
        recorder.outcome(run.outcome)
    path = report.write(folder)
    assert path == folder / "report.html"
    return path.read_text("utf-8")


def test_the_page_is_well_formed_and_complete(tmp_path: Path) -> None:
    text = written(tmp_path / "x", RUN)
    page = Page(text)
    tags = dict(reversed(page.tags))
    assert text.startswith("<!DOCTYPE html>\n")
    assert tags["html"]["lang"] == "en"
    assert "title" in tags
    assert any(attrs.get("name") == "viewport" for _, attrs in page.tags)
    assert Counter(tag for tag, _ in page.tags)["svg"] == 4
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")
    ids = Counter(attrs["id"] for _, attrs in page.tags if "id" in attrs)
    assert [name for name, count in ids.items() if count > 1] == []
    assert {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs} <= set(ids)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    text = written(tmp_path / "x", RUN)
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset", "style"):
            assert not re.search(r"//|url\((?!#)", attrs.get(name) or ""), (tag, name, attrs[name])
        assert not [name for name in attrs if name.startswith("on")], tag
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_what_was_given_is_escaped(tmp_path: Path) -> None:
    names = ("id", "data", "split", "strategy", "engine", "broker", "unit", "program")
    facts = replace(FACTS, metric="rmse", versions={HOSTILE: HOSTILE}, labels=(HOSTILE, "<b>", "&"))
    facts = replace(facts, **dict.fromkeys(names, HOSTILE))  # type: ignore[arg-type]
    outcome = replace(OUTCOME, weights=HOSTILE)
    text = written(tmp_path / "x", Run(facts, [ended(1, reason=HOSTILE)], outcome))
    page = Page(text)
    assert "<script" not in text
    assert Counter(tag for tag, _ in page.tags)["b"] == 5
    assert page.rows[-1][-1] == HOSTILE
    assert HOSTILE in page.words


def test_the_page_and_the_terminal_show_the_same_answer(tmp_path: Path) -> None:
    rows = Page(written(tmp_path / "x", RUN)).rows
    assert [tuple(row) for row in rows[:5]] == report.table(RUN)
    assert [row[0] for row in rows[5:]] == ["round", "1", "2", "3"]


def test_the_answer() -> None:
    assert report.table(RUN) == [
        ("trained on", "accuracy", "what left each device"),
        ("each device alone, mean", "50.00 %", "nothing"),
        ("each device alone, worst", "40.00 %", "nothing"),
        ("federation, 3 rounds", "90.00 %", "3 MB of model updates, 6 MB by the whole fleet"),
        ("all data in one place", "95.00 %", "its data: 16 examples of the whole fleet"),
    ]


def test_the_worst_device_has_the_largest_error() -> None:
    facts = replace(FACTS, metric="rmse", unit="cycles")
    run = Run(facts, [], replace(OUTCOME, federation=18.0, alone=(40.0, 30.0), central=15.0))
    assert [row[1] for row in report.table(run)[1:]] == ["35.00 cycles", "40.00 cycles", "18.00 cycles", "15.00 cycles"]


@pytest.mark.parametrize("lost", [math.nan, math.inf, None])
def test_a_device_whose_own_model_diverged_is_counted(lost: float | None) -> None:
    rows = report.table(RUN._replace(outcome=replace(OUTCOME, alone=(0.4, lost))))
    assert rows[1][1] == "40.00 % (1 of 2 diverged)"
    assert rows[2][1] == "diverged"


def test_a_run_that_was_cut_shows_what_there_is(tmp_path: Path) -> None:
    cut = RUN._replace(rounds=[ended(1, 0.5), ended(2, 0.7), ended(3, 0.7, "abandoned", "deadline")], outcome=None)
    assert [row[1] for row in report.table(cut)[1:]] == ["—", "—", "70.00 %", "—"]
    text = written(tmp_path / "x", cut)
    assert "interrupted after 2 rounds" in text
    assert "deadline" in [row[-1] for row in Page(text).rows]


def test_an_interrupted_run_keeps_the_baselines_it_has(tmp_path: Path) -> None:
    cut = RUN._replace(rounds=[ended(1, 0.5)], outcome=replace(OUTCOME, finished=False, federation=0.5, alone=()))
    assert "interrupted after 1 round<" in written(tmp_path / "x", cut)
    assert [row[1] for row in report.table(cut)[1:]] == ["—", "—", "50.00 %", "95.00 %"]


@pytest.mark.parametrize("outcome", [None, replace(OUTCOME, finished=False, federation=None, alone=(), central=None)])
def test_a_run_without_a_round_has_a_page(tmp_path: Path, outcome: Outcome | None) -> None:
    text = written(tmp_path / "x", RUN._replace(rounds=[], outcome=outcome))
    Page(text)
    assert "interrupted after 0 rounds" in text
    assert "No round has a score yet." in text


def test_a_fleet_of_many_devices_and_rounds_has_a_page(tmp_path: Path) -> None:
    facts = replace(FACTS, devices=200, counts=tuple((i, 1, 2) for i in range(200)))
    text = written(tmp_path / "x", Run(facts, [ended(i + 1) for i in range(300)], OUTCOME))
    assert len(Page(text).rows) == 5 + 301
    assert len(text) < 2_000_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "from 50.00 % (alone, on average) to 90.00 %: 88 % of the way to having all data in one place."),
        ({"central": 0.90001}, "to 90.00 %: 99 % of the way"),
        ({"central": 0.9}, "to 90.00 %: as good as having all data in one place."),
        ({"central": 0.8}, "to 90.00 %: as good as having all data in one place."),
        ({"central": None}, "to 90.00 %."),
        ({"central": math.nan}, "to 90.00 %."),
        ({"central": 0.3}, "to 90.00 %."),
        ({"federation": 0.45}, "did not help here: 45.00 %, where a device alone reaches 50.00 % on average."),
        ({"federation": 0.5}, "did not help here"),
        ({"alone": ()}, "reached 90.00 %; what each device reaches alone was not computed."),
        ({"federation": math.nan}, "diverged"),
    ],
)
def test_the_verdict_claims_no_more_than_the_scores_say(change: dict[str, object], words: str) -> None:
    assert words in report.verdict(RUN._replace(outcome=replace(OUTCOME, **change)))  # type: ignore[arg-type]


def test_for_an_error_less_is_better() -> None:
    facts = replace(FACTS, metric="rmse", unit="cycles")
    good = Run(facts, [], replace(OUTCOME, federation=20.0, alone=(40.0, 30.0), central=15.0))
    assert "from 35.00 cycles (alone, on average) to 20.00 cycles: 75 % of the way" in report.verdict(good)
    bad = good._replace(outcome=replace(OUTCOME, federation=36.0, alone=(40.0, 30.0), central=15.0))
    assert "did not help here" in report.verdict(bad)


@pytest.mark.parametrize(("engine", "whose"), [("mqtt", "memory on a device"), ("loopback", "memory of the whole")])
def test_memory_is_not_called_a_devices_where_all_share_a_process(tmp_path: Path, engine: str, whose: str) -> None:
    words = Page(written(tmp_path / "x", RUN._replace(facts=replace(FACTS, engine=engine)))).words
    assert [word for word in words if word.startswith("memory")] == [
        f"{whose}{' simulation' * (engine != 'mqtt')}, peak"
    ]
    assert "55 MiB" in words


def test_a_virtual_device_has_no_memory(tmp_path: Path) -> None:
    words = Page(written(tmp_path / "x", RUN._replace(facts=replace(FACTS, engine="virtual")))).words
    assert not [word for word in words if word.startswith("memory") or word == "55 MiB"]


def test_a_report_can_be_written_again(tmp_path: Path) -> None:
    first = written(tmp_path / "x", RUN)
    assert report.write(tmp_path / "x").read_text("utf-8") == first
    assert read(tmp_path / "x") == RUN


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not the folder of a run"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
