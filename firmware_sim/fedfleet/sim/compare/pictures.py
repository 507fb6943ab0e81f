"""A comparison in four pictures, in the look of a run's; one colour a way, the same in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedfleet.sim.compare.advice import Scale
from fedfleet.sim.compare.contender import Result
from fedfleet.sim.plots import BLUE, GREEN, INK, ORANGE, SKY, WIDTH, dress, legend, svg

YELLOW, PURPLE = "#e69f00", "#cc79a7"
COLOURS = (GREEN, ORANGE, BLUE, PURPLE, SKY, YELLOW)
MB = 1e6
HEIGHT = 3.9


def scores(results: Sequence[Result], scale: Scale) -> str:
    """How good each way is, undisturbed and where participants died."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = dress(figure.subplots(), _label(scale), "")
    places = np.arange(len(results))
    whole = [_shown(result.whole.score, scale) for result in results]
    deaths = [_shown(result.deaths.score if result.deaths else None, scale) for result in results]
    colours = [COLOURS[at % len(COLOURS)] for at in range(len(results))]
    axes.barh(places - 0.2, whole, height=0.38, color=colours)
    if any(math.isfinite(value) for value in deaths):
        axes.barh(places + 0.2, deaths, height=0.38, color=colours, alpha=0.45)
    for at, (one, other) in enumerate(zip(whole, deaths, strict=True)):
        _written(axes, one, at - 0.2, "")
        died = results[at].deaths
        _written(axes, other, at + 0.2, " with deaths" + (", started again" if died and not died.ended else ""))
    _named(axes, results)
    if scale.metric == "accuracy":
        axes.set_xticks(range(0, 101, 25))
    axes.set_xlim(0, 1.45 * max([value for value in [*whole, *deaths] if math.isfinite(value)], default=1.0))
    return svg(figure, "scores", f"{scale.metric} of each way, undisturbed and with deaths")


def traffic(results: Sequence[Result]) -> str:
    """What the devices of each way send and receive."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = dress(figure.subplots(), "megabytes of all devices together", "")
    places = np.arange(len(results))
    sent, received = ([getattr(result.whole, what) / MB for result in results] for what in ("sent", "received"))
    axes.barh(places - 0.2, sent, height=0.38, color=BLUE, label="sent")
    axes.barh(places + 0.2, received, height=0.38, color=SKY, label="received")
    for at, result in enumerate(results):
        left = f"{sent[at]:.3g}  {result.traits.leaves}" if sent[at] else "nothing"
        axes.text(sent[at], at - 0.2, f" {left}", color=INK, va="center", fontsize=9)
        axes.text(
            received[at],
            at + 0.2,
            f" {received[at]:.3g}" if received[at] else "nothing",
            color=INK,
            va="center",
            fontsize=9,
        )
    _named(axes, results)
    axes.set_xlim(0, 1.45 * max([*sent, *received, 1e-9]))
    legend(axes, 2)
    return svg(figure, "traffic", "megabytes that devices send and receive, by way")


def rounds(results: Sequence[Result], scale: Scale) -> str:
    """How each way gets on, round by round or after as many passes; those without rounds as a line."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = dress(figure.subplots(), "round, or as many passes over the data", _label(scale))
    for at, result in enumerate(results):
        colour, curve = COLOURS[at % len(COLOURS)], [_shown(value, scale) for value in result.whole.curve]
        if curve:
            axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=2, label=result.traits.title)
        elif result.whole.score is not None:
            level = _shown(result.whole.score, scale)
            axes.axhline(level, color=colour, linestyle=":", linewidth=2, label=f"{result.traits.title}, in the end")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, 2)
    return svg(figure, "rounds", f"{scale.metric} by round, of each way")


def disturbed(results: Sequence[Result], scale: Scale, half: int) -> str:
    """How each way gets on where participants die half way."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = dress(figure.subplots(), "round, or as many passes over the data", _label(scale))
    axes.axvline(half, color=INK, linestyle="--", linewidth=1, label="deaths")
    for at, result in enumerate(results):
        colour = COLOURS[at % len(COLOURS)]
        curve = [_shown(value, scale) for value in result.deaths.curve] if result.deaths else []
        if curve:
            axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=2, label=result.traits.title)
        elif result.deaths and result.deaths.score is not None:
            level = _shown(result.deaths.score, scale)
            axes.axhline(level, color=colour, linestyle=":", linewidth=2, label=f"{result.traits.title}, in the end")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, 2)
    return svg(figure, "disturbed", f"{scale.metric} by round where participants die half way")


def _named(axes: Axes, results: Sequence[Result]) -> None:
    axes.set_yticks(range(len(results)), [result.traits.title.replace(" in one", "\nin one") for result in results])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _written(axes: Axes, value: float, at: float, note: str) -> None:
    if math.isfinite(value):
        axes.text(value, at, f" {value:.2f}{note}", color=INK, va="center", fontsize=9)


def _label(scale: Scale) -> str:
    if scale.metric == "accuracy":
        return "accuracy (%), higher is better"
    return f"{scale.metric} ({scale.unit}), lower is better" if scale.unit else f"{scale.metric}, lower is better"


def _shown(value: float | None, scale: Scale) -> float:
    """A score as the axes count it, NaN for none."""
    if value is None or not math.isfinite(value):
        return math.nan
    return 100 * value if scale.metric == "accuracy" else value
