"""What the measured figures recommend: rules over results, each of which quotes the figures that it decided by.

A difference counts if the held-out examples can tell it: two standard errors of a difference between two scores on so
many examples. They are sqrt(2 p (1 - p) / n) for accuracies, and rmse / sqrt(n) for root mean square errors of normal
errors, each taken as independent, which overstates them where the same examples judge both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedfleet.sim.compare.contender import Ending, Result
from fedfleet.sim.record import number_text, score_text, size_text

ALIKE = 0.1  # traffic that differs by less than this part is as good as equal


@dataclass(frozen=True)
class Scale:
    """How scores are read: the metric, its unit, and on how many held-out examples they were measured."""

    metric: str
    unit: str
    examples: int

    @property
    def sign(self) -> int:
        """1 if more is better, -1 if less is."""
        return 1 if self.metric == "accuracy" else -1

    def text(self, value: float | None) -> str:
        """A score in words."""
        return score_text(value, self.metric, self.unit)

    def difference(self, value: float) -> str:
        """A difference of scores in words, without a sign."""
        if self.metric == "accuracy":
            return f"{number_text(abs(100 * value), 1)} points"
        return f"{number_text(abs(value), 2)} {self.unit}".rstrip()

    def margin(self, value: float) -> float:
        """How far below a score of `value` another still cannot be told from it."""
        if self.metric != "accuracy":
            return 2 * value / math.sqrt(self.examples)
        p = min(max(value, 1 / self.examples), 1 - 1 / self.examples)
        return 2 * math.sqrt(2 * p * (1 - p) / self.examples)


@dataclass(frozen=True)
class Advice:
    """The name of the way that is recommended, empty if none is, the sentence that says so, and why, one by one."""

    name: str
    verdict: str
    reasons: tuple[str, ...]


def advise(results: Sequence[Result], scale: Scale) -> Advice:
    """Return what `results` recommend: among the ways that keep raw data where it is, and whether moving it pays."""
    private = [result for result in results if not result.traits.raw and _finite(result.whole)]
    if not private:
        return Advice("", "Nothing is recommended: no way that keeps raw data on the devices has a score.", ())
    best = max(private, key=lambda result: scale.sign * _score(result.whole))
    margin = scale.margin(_score(best.whole))
    tied = [result for result in private if scale.sign * (_score(best.whole) - _score(result.whole)) <= margin]
    lasting = [result for result in tied if result.deaths is None or _finite(result.deaths)] or tied
    chosen = _cheapest(lasting)
    reasons = [
        _best(best, private, tied, scale, margin),
        *([_cheaper(chosen, lasting)] if len(lasting) > 1 else []),
        *([_broken(tied, lasting)] if len(lasting) < len(tied) else []),
        *([_dying(chosen, chosen.deaths, scale)] if chosen.deaths else []),
        *_others(chosen, [result for result in private if result not in tied], scale),
        *(_moving(chosen, result, scale) for result in results if result.traits.raw and _finite(result.whole)),
    ]
    verdict = (
        f"Recommended here: {chosen.traits.title}, at {scale.text(chosen.whole.score)}. It needs {_needs(chosen)}."
    )
    return Advice(chosen.traits.name, verdict, tuple(reasons))


def _cheapest(results: Sequence[Result]) -> Result:
    """The one that moves the fewest bytes; of those that are near it the one that needs the least."""
    least = min(_traffic(result) for result in results)
    near = [result for result in results if _traffic(result) <= (1 + ALIKE) * least]
    return min(near, key=lambda result: (len(result.traits.needs), _traffic(result)))


def _best(best: Result, private: Sequence[Result], tied: Sequence[Result], scale: Scale, margin: float) -> str:
    scores = ", ".join(f"{result.traits.title} {scale.text(result.whole.score)}" for result in private)
    names = " and ".join(result.traits.title for result in tied)
    told = f"{scale.examples:,} held-out examples tell {scale.difference(margin)} apart"
    if len(tied) == 1:
        return f"Raw data stays on the devices: {scores}. {names[:1].upper()}{names[1:]} is the best of them; {told}."
    return f"Raw data stays on the devices: {scores}. Between {names} there is no difference to be told; {told}."


def _cheaper(chosen: Result, lasting: Sequence[Result]) -> str:
    """Why of several equally good ones this one."""
    first, *others = [chosen, *(result for result in lasting if result is not chosen)]
    costs = [f"{result.traits.title} {size_text(_traffic(result))} and {_needs(result)}" for result in others]
    own = f"{first.traits.title} moves {size_text(_traffic(first))} in all and needs {_needs(first)}"
    return f"Of those, {own}; {'; '.join(costs)}."


def _needs(result: Result) -> str:
    return " and ".join(result.traits.needs) or "nothing else"


def _broken(tied: Sequence[Result], lasting: Sequence[Result]) -> str:
    names = " and ".join(result.traits.title for result in tied if result not in lasting)
    return f"Left out though as good: {names}, which did not come to an end when participants died."


def _dying(chosen: Result, deaths: Ending, scale: Scale) -> str:
    """What deaths cost the chosen one."""
    if not _finite(deaths) or deaths.score is None:
        return f"Participants that die half way end it: {deaths.said or 'there is no model then'}."
    lost = scale.sign * (_score(chosen.whole) - deaths.score)
    verb = "costs" if lost > 0 else "does not cost"
    what = scale.difference(lost) if lost > 0 else "any score"
    told = ", less than can be told" if 0 < lost <= scale.margin(_score(chosen.whole)) else ""
    text = f"{scale.text(chosen.whole.score)} to {scale.text(deaths.score)}"
    return f"When participants die half way it comes to its end; that {verb} {what} ({text}{told})."


def _others(chosen: Result, others: Sequence[Result], scale: Scale) -> list[str]:
    """What the worse ones lack, though they may need less."""
    found = []
    for other in others:
        lack = scale.difference(scale.sign * (_score(chosen.whole) - _score(other.whole)))
        fewer = [need for need in chosen.traits.needs if need not in other.traits.needs]
        spared = (
            f", though it needs no {' and no '.join(need.removeprefix('an ').removeprefix('a ') for need in fewer)}"
        )
        found.append(f"{other.traits.title.capitalize()} is {lack} worse{spared if fewer else ''}.")
    return found


def _moving(chosen: Result, other: Result, scale: Scale) -> str:
    """Whether it pays to move the raw data."""
    gain, margin = scale.sign * (_score(other.whole) - _score(chosen.whole)), scale.margin(_score(other.whole))
    cost = f"{size_text(other.whole.sent)} of raw data leave the devices"
    moved = f"{chosen.traits.title} moves {size_text(_traffic(chosen))} and no raw data"
    score = f"{other.traits.title} reaches {scale.text(other.whole.score)}, {scale.difference(gain)}"
    if gain > margin:
        return f"If raw data may move: {score} better, once {cost}; {moved}."
    told = f"{'better' if gain > 0 else 'worse'}{'' if gain <= -margin else ', less than can be told'}"
    return f"Moving raw data brings no better model: {score} {told}. Then {cost}; {moved}."


def _traffic(result: Result) -> int:
    return result.whole.sent + result.whole.received


def _finite(ending: Ending) -> bool:
    return ending.ended and ending.score is not None and math.isfinite(ending.score)


def _score(ending: Ending) -> float:
    assert ending.score is not None
    return ending.score
