"""A run in four pictures, as SVG text that is the same for the same run.

Text and axes are drawn in `currentColor`, so a picture follows the colours of the page it is put into. Colours are
those of Okabe and Ito (2008), which stay apart for colour-blind readers.
"""

from __future__ import annotations

import io
import math
import re
import warnings

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedfleet.sim.record import Run, number_text, score

Series = npt.NDArray[np.float64]

INK = "#4a5361"
BLUE, ORANGE, GREEN, SKY = "#0072b2", "#d55e00", "#009e73", "#56b4e9"
SHADES = LinearSegmentedColormap.from_list("shades", [to_rgba(BLUE, 0.12), to_rgba(BLUE, 1.0)])
WIDTH, HEIGHT = 5.8, 3.7
DIVERGED = 1e12
MARKED_ROUNDS = 40
WRITTEN_DEVICES, WRITTEN_LABELS, WRITTEN_TICKS = 24, 12, 26
TICK_LINE = 44
VECTOR_CELLS = 1200


def score_by_round(run: Run) -> str:
    """The score after each round, against each device alone and all data in one place."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = dress(figure.subplots(), "round", _score_label(run))
    _baselines(axes, run)
    rounds = np.array([record.round for record in run.rounds], dtype=np.float64)
    _curve(axes, rounds, _scores(run), "mean of all models" if run.gossips else "federation", BLUE)
    if run.gossips:
        worst = [_shown(run, score(record, f"worst_{run.facts.metric}")) for record in run.rounds]
        _curve(axes, rounds, np.array(worst, dtype=np.float64), "worst device's own", SKY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, 2)
    return svg(figure, "score-by-round", f"{run.facts.metric} after each round")


def score_by_megabytes(run: Run) -> str:
    """The score against the megabytes that the fleet had sent, and sent and received, by then."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = dress(figure.subplots(), "megabytes of the whole fleet, cumulative", _score_label(run))
    up = np.cumsum([record.bytes_up for record in run.rounds], dtype=np.float64) / 1e6
    down = np.cumsum([record.bytes_down for record in run.rounds], dtype=np.float64) / 1e6
    _curve(axes, up, _scores(run), "sent by devices", BLUE)
    _curve(axes, up + down, _scores(run), "sent and received", ORANGE)
    axes.set_xlim(left=0)
    legend(axes, 2)
    return svg(figure, "score-by-megabytes", f"{run.facts.metric} by megabytes sent")


def examples_by_device(run: Run) -> str:
    """Who has what: examples of each label on each device as shades, and each device's total as a bar."""
    counts = np.array(run.facts.counts, dtype=np.float64).reshape(run.facts.devices, len(run.facts.labels))
    figure = Figure(figsize=(WIDTH, 1.1 + min(max(0.26 * len(counts), 1.0), 4.6)), layout="constrained")
    shades, bars = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    _shades(dress(shades, f"label (fullest cell: {counts.max(initial=0):,.0f} examples)", "device"), counts, run)
    dress(bars, "examples", "").barh(np.arange(len(counts)), counts.sum(axis=1), height=0.8, color=BLUE)
    shades.grid(visible=False)
    bars.grid(visible=False, axis="y")
    bars.tick_params(labelleft=False)
    bars.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    return svg(figure, "examples-by-device", f"examples of each label on each of {len(counts)} devices")


def time_and_reports(run: Run) -> str:
    """How long each round took, and how many of the devices it called reported in time."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    rounds = [record.round for record in run.rounds]
    reported, late = [record.reported for record in run.rounds], [record.late for record in run.rounds]
    abandoned = [record for record in run.rounds if record.state != "closed"]
    unit = "virtual seconds" if run.facts.engine == "virtual" else "seconds"
    dress(top, "", unit).bar(rounds, [record.seconds for record in run.rounds], width=0.8, color=SKY)
    dress(bottom, "round", "devices").bar(rounds, reported, width=0.8, color=BLUE, label="reported")
    bottom.bar(rounds, late, bottom=reported, width=0.8, color=ORANGE, label="late")
    if abandoned:
        heights = [1.08 * record.called for record in abandoned]
        crosses = [record.round for record in abandoned]
        bottom.scatter(crosses, heights, marker="x", color=INK, label="round abandoned", zorder=3)
    bottom.set_ylim(0, 1.18 * max([1, *(record.called for record in run.rounds)]))
    for axes in (top, bottom):
        axes.grid(visible=False, axis="x")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    legend(bottom, 3)
    return svg(figure, "time-and-reports", f"{unit}, and devices reported and late, by round")


def dress(axes: Axes, x: str, y: str) -> Axes:
    """Give `axes` the look that all pictures share."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK, labelsize=10, length=3)
    axes.set_xlabel(x, color=INK, fontsize=11)
    axes.set_ylabel(y, color=INK, fontsize=11)
    axes.grid(color=INK, alpha=0.18, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _curve(axes: Axes, x: Series, y: Series, label: str, colour: str) -> None:
    marker = "o" if len(x) <= MARKED_ROUNDS else ""
    axes.plot(x, y, color=colour, linewidth=2.2, marker=marker, markersize=4.5, label=label, zorder=3)
    if not np.isfinite(y).any():
        axes.text(0.5, 0.5, "no round has a score", color=INK, ha="center", va="center", transform=axes.transAxes)


def _baselines(axes: Axes, run: Run) -> None:
    """Draw what there would be without federating, as far as it was computed."""
    if run.outcome is None:
        return
    alone = [value for value in run.outcome.alone if value is not None and math.isfinite(value)]
    if run.outcome.central is not None and math.isfinite(run.outcome.central):
        central = _shown(run, run.outcome.central)
        axes.axhline(central, color=GREEN, ls="--", label=f"all data in one place: {number_text(central, 2)}")
    if alone:
        mean, low, high = (_shown(run, value) for value in (sum(alone) / len(alone), min(alone), max(alone)))
        axes.axhline(mean, color=ORANGE, ls=":", linewidth=2, label=f"each alone, mean: {number_text(mean, 2)}")
        text = f"each alone: {number_text(low, 1)} to {number_text(high, 1)}"
        axes.axhspan(low, high, color=ORANGE, alpha=0.13, linewidth=0, label=text)


def _shades(axes: Axes, counts: Series, run: Run) -> None:
    """Draw counts[devices, labels] as shades of one colour; cells without examples stay empty."""
    devices, labels = counts.shape
    filled = np.ma.masked_equal(counts, 0)
    edges = np.arange(labels + 1) - 0.5, np.arange(devices + 1) - 0.5
    axes.pcolormesh(*edges, filled, cmap=SHADES, vmin=0, rasterized=counts.size > VECTOR_CELLS)
    axes.set_ylim(devices - 0.5, -0.5)
    step, stride = math.ceil(labels / WRITTEN_LABELS), math.ceil(devices / WRITTEN_TICKS)
    names = [_plain(label) for label in run.facts.labels[::step]]
    axes.set_xticks(range(0, labels, step), names, rotation=35 if len("  ".join(names)) > TICK_LINE else 0)
    axes.set_yticks(range(0, devices, stride))
    if devices > WRITTEN_DEVICES or labels > WRITTEN_LABELS:
        return
    for (device, label), count in np.ndenumerate(counts):
        if count:
            ink = "white" if count > 0.55 * counts.max() else INK
            axes.text(label, device, f"{count:.0f}", color=ink, fontsize=8.5, ha="center", va="center")


def _plain(text: str) -> str:
    """Return `text` as at most 12 characters that mean themselves."""
    short = text if len(text) <= 12 else f"{text[:11]}…"
    # A dollar sign would begin a formula, and XML has no control characters.
    return "".join(c if c.isprintable() else "?" for c in short).replace("$", r"\$")


def legend(axes: Axes, width: int) -> None:
    """Put a legend of `width` columns above `axes`, if anything in it has a name."""
    if axes.get_legend_handles_labels()[1]:
        place = (0.0, 1.0)
        axes.legend(loc="lower left", bbox_to_anchor=place, ncols=width, frameon=False, labelcolor=INK, fontsize=9.5)


def _score_label(run: Run) -> str:
    if run.facts.metric == "accuracy":
        return "accuracy (%), higher is better"
    return f"rmse ({_plain(run.facts.unit)}), lower is better" if run.facts.unit else "rmse, lower is better"


def _scores(run: Run) -> Series:
    return np.array([_shown(run, score(record, run.facts.metric)) for record in run.rounds], dtype=np.float64)


def _shown(run: Run, value: float | None) -> float:
    """A score as the axes count it: percent or natural units, NaN for none and for what has diverged."""
    if value is None or not abs(value) < DIVERGED:
        return math.nan
    return 100 * value if run.facts.metric == "accuracy" else value


def svg(figure: Figure, name: str, title: str) -> str:
    """Return `figure` as one svg element whose ids begin with `name`, so that several may share a page."""
    # The salt of the ids can be set nowhere else; without one they would differ from run to run.
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        # The page's fonts draw the text; those that measure it here need not have every letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text).replace(INK, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
