"""The pictures: valid, the same every time, and telling what the run says."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fedfleet.cloud.federation import RoundRecord
from fedfleet.sim import plots
from fedfleet.sim.record import Facts, Outcome, Run

SVG = "{http://www.w3.org/2000/svg}"
PLOTS = (plots.score_by_round, plots.score_by_megabytes, plots.examples_by_device, plots.time_and_reports)
Plot = Callable[[Run], str]

BASE = Facts(
    "run-1", "digits", "iid", "fedavg", "mqtt", "mosquitto", 7, 0, 9, "accuracy", 1.0, "", 9, "9f", 9, {}, (), ()
)
OUTCOME = Outcome(True, 3, "ab", 0.9, (0.4, 0.6), 0.95, 12.5, 55.0, 6_000, 7_000)


def facts(counts: list[list[int]], metric: str = "accuracy", unit: str = "", labels: list[str] | None = None) -> Facts:
    names = tuple(labels or [f"L{i}" for i in range(len(counts[0]))])
    rows = tuple(tuple(row) for row in counts)
    return replace(BASE, devices=len(rows), counts=rows, labels=names, metric=metric, unit=unit)


def ended(number: int, score: float, metric: str = "accuracy", state: str = "closed", late: int = 0) -> RoundRecord:
    scores = {"loss": 0.5, metric: score}
    return RoundRecord(number, state, "", 2, 2 - late, late, 16, 0.7, 10**6, 2 * 10**6, 1.5, "cd", 50.0, scores)


RUN = Run(facts([[5, 0], [7, 90]]), [ended(1, 0.3), ended(2, 0.6), ended(3, 0.9, late=1)], OUTCOME)


def words(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def curve(svg: str, colour: str) -> list[tuple[float, float]]:
    """The corners of the thick line of `colour`, in the picture's coordinates, y downwards."""
    for path in ET.fromstring(svg).iter(f"{SVG}path"):
        style = path.get("style", "")
        if f"stroke: {colour}" in style and "stroke-width: 2.2" in style:
            return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d", ""))][
                :-1
            ] or []
    raise AssertionError(f"no line of {colour}")


@pytest.mark.parametrize("plot", PLOTS)
def test_the_same_run_gives_the_same_picture(plot: Plot) -> None:
    assert plot(RUN) == plot(RUN)


@pytest.mark.parametrize("plot", PLOTS)
def test_a_picture_is_one_svg_element_with_a_name_for_those_who_cannot_see_it(plot: Plot) -> None:
    root = ET.fromstring(plot(RUN))
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.get("viewBox")


def test_ids_stay_apart_when_pictures_share_a_page() -> None:
    texts = [plot(RUN) for plot in PLOTS]
    ids = [name for text in texts for name in re.findall(r'\bid="([^"]+)"', text)]
    used = {name for text in texts for name in re.findall(r'(?:href="#|url\(#)([^")]+)', text)}
    assert len(ids) == len(set(ids)) > 50
    assert used
    assert used <= set(ids)


def test_drawing_leaves_no_trace_in_global_state() -> None:
    before = dict(mpl.rcParams)
    for plot in PLOTS:
        plot(RUN)
    assert dict(mpl.rcParams) == before


def test_no_window_system_is_loaded() -> None:
    code = "import sys, fedfleet.sim.plots; assert 'matplotlib.pyplot' not in sys.modules, 'pyplot is loaded'"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0, done.stderr


def test_pictures_take_the_colour_of_their_page() -> None:
    for plot in PLOTS:
        text = plot(RUN)
        assert "currentColor" in text
        assert plots.INK not in text
        assert not re.search(r"fill: ?(#ffffff|white)[^>]*id=\"[^\"]*patch_1", text)


def test_a_better_accuracy_is_drawn_higher() -> None:
    corners = curve(plots.score_by_round(RUN), plots.BLUE)
    assert len(corners) >= 2
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(corners))


def test_megabytes_add_up() -> None:
    svg = plots.score_by_megabytes(RUN)
    up, both = curve(svg, plots.BLUE), curve(svg, plots.ORANGE)
    left = up[0][0] - (up[1][0] - up[0][0])  # where nothing has been sent: rounds are alike
    assert (both[0][0] - left) / (up[0][0] - left) == pytest.approx(3, rel=1e-3)


def test_axes_say_what_they_count() -> None:
    assert "accuracy (%), higher is better" in words(plots.score_by_round(RUN))
    regression = replace(RUN.facts, metric="rmse", unit="cycles")
    run = RUN._replace(facts=regression, rounds=[ended(1, 40.0, "rmse"), ended(2, 20.0, "rmse")])
    assert "rmse (cycles), lower is better" in words(plots.score_by_round(run))
    assert "rmse (cycles), lower is better" in words(plots.score_by_megabytes(run))
    assert "seconds" in words(plots.time_and_reports(run))
    virtual = run._replace(facts=replace(run.facts, engine="virtual"))
    assert "virtual seconds" in words(plots.time_and_reports(virtual))


def test_baselines_are_named_with_their_scores() -> None:
    found = words(plots.score_by_round(RUN))
    assert {"all data in one place: 95.00", "each alone, mean: 50.00", "each alone: 40.0 to 60.0"} <= set(found)
    without = words(plots.score_by_round(RUN._replace(outcome=None)))
    assert not any("alone" in text or "one place" in text for text in without)


def test_a_baseline_that_diverged_is_not_drawn() -> None:
    outcome = replace(OUTCOME, alone=(math.nan, 0.6, None), central=math.inf)
    found = words(plots.score_by_round(RUN._replace(outcome=outcome)))
    assert "each alone, mean: 60.00" in found
    assert not any("one place" in text for text in found)


def test_counts_stand_in_their_cells_and_none_where_there_are_none() -> None:
    found = words(plots.examples_by_device(RUN))
    assert {"5", "7", "90", "L0", "L1", "label (fullest cell: 90 examples)"} <= set(found)
    cells = re.search(r'<g id="[^"]*QuadMesh_1">(.*?)</g>', plots.examples_by_device(RUN), re.DOTALL)
    assert cells is not None
    assert cells.group(1).count(f"fill: {plots.BLUE}") == 3


@pytest.mark.parametrize("devices", [1, 2, 24, 25, 100, 300])
def test_fleets_of_all_sizes_stay_readable(devices: int) -> None:
    svg = plots.examples_by_device(Run(facts([[i + 1] * 10 for i in range(devices)]), [], None))
    ticks = [text for text in words(svg) if re.fullmatch(r"L\d", text)]
    height = float(ET.fromstring(svg).get("viewBox", "").split()[3])
    assert len(ticks) == 10
    assert height <= 6.5 * 72
    assert len(svg) < 400_000


def test_rounds_that_were_abandoned_are_marked() -> None:
    assert "round abandoned" not in words(plots.time_and_reports(RUN))
    run = RUN._replace(rounds=[*RUN.rounds, ended(4, 0.9, state="abandoned", late=2)])
    assert "round abandoned" in words(plots.time_and_reports(run))


@pytest.mark.parametrize("rounds", [[], [replace(ended(1, 0.5), scores={})], [ended(1, math.nan)]])
def test_a_run_without_scores_says_so(rounds: list[RoundRecord]) -> None:
    assert "no round has a score" in words(plots.score_by_round(RUN._replace(rounds=rounds, outcome=None)))


def test_a_dollar_sign_is_a_dollar_sign() -> None:
    run = Run(facts([[1, 2]], "rmse", "$a$", ["$x$", "$"]), [], None)
    assert {"$x$", "$"} <= set(words(plots.examples_by_device(run)))
    assert "rmse ($a$), lower is better" in words(plots.score_by_round(run))


@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.data())
def test_no_run_is_too_strange_to_draw(data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.text(max_size=20), min_size=1, max_size=14))
    rows = st.lists(st.integers(0, 10**9), min_size=len(labels), max_size=len(labels))
    counts = data.draw(st.lists(rows, min_size=1, max_size=30))
    metric = data.draw(st.sampled_from(["accuracy", "rmse"]))
    scores = data.draw(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=5))
    unit = data.draw(st.text(max_size=5) | st.sampled_from(["$", "$$", "$x$", "<&>", "\x00"]))
    rounds = [ended(i + 1, score, metric) for i, score in enumerate(scores)]
    outcome = replace(OUTCOME, alone=tuple(scores), central=scores[0] if scores else None)
    run = Run(facts(counts, metric, unit, labels), rounds, data.draw(st.sampled_from([None, outcome])))
    for plot in PLOTS:
        assert ET.fromstring(plot(run)).tag == f"{SVG}svg"
