"""What a comparison shows: every figure, escaped, in HTML, Markdown and JSON; and on a terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedfleet.cloud.federation import RoundRecord
from fedfleet.sim.compare import alone, central, fleets, page, pictures
from fedfleet.sim.compare.advice import Scale, advise
from fedfleet.sim.compare.contender import Ending, Result
from fedfleet.sim.compare.line import Line
from fedfleet.sim.compare.run import Comparison, document, figures, rows
from fedfleet.sim.stage import Simulation

SCALE = Scale("accuracy", "", 359)
VOID = {"meta", "br", "path", "use", "rect", "line", "circle", "image"}


def results() -> tuple[Result, ...]:
    curve = (0.5, 0.7, 0.9)
    whole = Ending(True, 0.9, 3, 12.5, 4_000_000, 5_000_000, curve=curve)
    died = Ending(True, 0.85, 3, 13.5, 3_000_000, 4_000_000, said="2 of 8 <gone> & lost", curve=curve)
    raw = Ending(True, 0.95, 3, 40.0, 374_000, 0, curve=curve)
    own = Ending(True, 0.7, 3, 9.0, 0, 1_000_000, worst=0.4)
    gossip = replace(whole, score=0.8, worst=0.6, said="the mean of all models, which no device holds: 90.00 %")
    return (
        Result(central.TRAITS, raw, replace(raw, ended=False, said="killed, started again")),
        Result(alone.TRAITS, own, replace(own, score=0.69)),
        Result(fleets.FEDERATION, whole, died),
        Result(fleets.GOSSIP, gossip, replace(died, score=float("nan"))),
    )


@pytest.fixture
def found() -> Comparison:
    wanted = Simulation(data="csv:<odd>&.csv?label=x|y", dying=0.3)
    judged = results()
    return Comparison(wanted, SCALE, 1438, 374_000, 13_706, 132_000, (1, 5), 99.5, judged, advise(judged, SCALE))


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_needs_no_network(found: Comparison, tmp_path: Path) -> None:
    page.write(tmp_path, found)
    text = (tmp_path / page.PAGE).read_text()
    reader = Balanced()
    reader.feed(text)
    assert reader.open == []
    assert "<odd>" not in text
    assert "&lt;odd&gt;" in text
    assert "2 of 8 &lt;gone&gt; &amp; lost" in text
    assert "$" not in text.replace("$\\", "")
    assert text.count("<svg ") == 4
    assert "http-equiv" in text
    assert "src=" not in text.replace("default-src", "").replace("style-src", "").replace("img-src", "")
    for shown in ("90.00 %", "374 kB", "4 MB", "99.50", "d1, d5"):
        assert shown in text or shown == "99.50"
    assert found.advice.verdict in text


def test_the_markdown_has_the_same_table_and_no_broken_row(found: Comparison) -> None:
    text = page.markdown("a-run", found)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert "| trained by | accuracy | worst | devices sent | received | to | seconds | 30% die |" in tables
    assert "| federation | 90.00 % | — | 4 MB | 5 MB | the cloud | 12.5 | 85.00 % |" in tables
    assert "95.00 %, once started again |" in text
    assert "| gossip | 80.00 % | 60.00 % | 4 MB | 5 MB | neighbours | 12.5 | diverged |" in tables
    assert all(reason in text for reason in found.advice.reasons)
    counts = [line.replace("\\|", "").count("|") for line in tables]
    assert set(counts) == {9, 7}


def test_the_document_is_json_without_numbers_that_are_not_finite(found: Comparison) -> None:
    table = json.loads(json.dumps(document(found), allow_nan=False))
    assert table["results"][3]["deaths"]["score"] is None
    assert table["results"][0]["traits"]["raw"] is True
    assert table["advice"]["name"] == "federation"
    assert table["wanted"]["rounds"]["total"] == found.wanted.rounds.total


def test_the_closing_figures_name_each_way(found: Comparison) -> None:
    values = figures(found)
    assert values["recommended"] == "federation"
    assert (values["train"], values["federation"], values["federation_deaths"]) == ("0.9500", "0.9000", "0.8500")
    assert values["seconds"] == "99.5000"


@pytest.mark.parametrize("terminal", [False, True])
def test_it_is_told_on_every_kind_of_terminal(found: Comparison, terminal: bool, tmp_path: Path) -> None:
    out = io.StringIO()
    page.tell(Console(file=out, force_terminal=terminal, width=140), tmp_path, found)
    said = out.getvalue()
    for shown in ("each device alone", "neighbours", "Recommended here", "compare.html"):
        assert shown in said
    assert ("\x1b[" in said) is terminal


def test_without_deaths_there_are_no_figures_of_deaths(found: Comparison) -> None:
    calm = tuple(replace(result, deaths=None) for result in found.results)
    quiet = replace(found, results=calm, doomed=(), advice=advise(calm, SCALE))
    assert all(row[-1] == "—" for row in rows(quiet)[1:])
    assert "No run with deaths" in page.markdown("a", quiet) + page._fields("a", quiet)["died"]
    assert not any(name.endswith("_deaths") for name in figures(quiet))


def test_a_picture_is_the_same_for_the_same_figures_and_another_for_others() -> None:
    one = pictures.scores(results(), SCALE)
    assert one == pictures.scores(results(), SCALE)
    assert one != pictures.scores(results()[:3], SCALE)
    assert "90.00" in one
    assert "with deaths, started again" in one
    for svg in (
        pictures.traffic(results()),
        pictures.rounds(results(), SCALE),
        pictures.disturbed(results(), SCALE, 1),
    ):
        assert svg.startswith("<svg ")
        assert "nan" not in svg


def test_an_error_in_units_is_drawn_as_such() -> None:
    scale = Scale("rmse", "cycles", 100)
    assert "rmse (cycles), lower is better" in pictures.scores(results(), scale)
    assert np.isfinite(scale.margin(14.0))


def test_the_line_says_where_a_run_is_without_a_terminal_only_what_stays() -> None:
    out = io.StringIO()
    with Line(Console(file=out, width=100)) as line:
        line.begin("federation")
        view = line.view(Console(quiet=True), "head", 20, "accuracy", "")
        with view as shown:
            shown.round(RoundRecord(1, "closed", "", 8, 8, 0, 10, 0.1, 1, 1, 1.0, "", 0.0, {"accuracy": 0.5}))
            shown.say("unheard")
        line.say("federation: done")
    assert out.getvalue() == "federation: done\n"


def test_the_line_on_a_terminal_is_taken_away_again() -> None:
    out = io.StringIO()
    with Line(Console(file=out, width=100, force_terminal=True)) as line:
        line.begin("gossip")
        line.tell("round 3 of 20")
    assert out.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in out.getvalue(), "the cursor is back"
