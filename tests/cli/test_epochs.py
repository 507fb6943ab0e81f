"""What central training looks like while it runs: a bar at a terminal, and a line an epoch everywhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from fedfleet.cli.epochs import Epochs
from fedfleet.cloud.training.job import Passed

COURSE = [Passed(1, 0, 4), Passed(1, 1, 4), Passed(1, 4, 4, 0.5), Passed(2, 0, 4), Passed(2, 4, 4, 0.25)]


def shown(*, terminal: bool, course: list[Passed] = COURSE) -> tuple[str, Epochs]:
    text = io.StringIO()
    with Epochs(Console(file=text, force_terminal=terminal, width=100), 2) as view:
        for passed in course:
            view.passed(passed)
            view._bar.refresh()
    return text.getvalue(), view


def test_without_a_terminal_there_is_a_plain_line_an_epoch_and_nothing_else() -> None:
    text, view = shown(terminal=False)
    assert [line.partition(", ")[0] for line in text.splitlines()] == [
        "epoch 1 of 2: loss 0.5000",
        "epoch 2 of 2: loss 0.2500",
    ]
    assert "\x1b" not in text
    assert view.last == COURSE[-1] and view.rate > 0


def test_at_a_terminal_a_bar_shows_the_steps_and_goes_when_it_is_over() -> None:
    text, _ = shown(terminal=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "1 of 4 steps" in plain and "epoch 2 of 2: loss 0.2500" in plain
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") == 1  # the cursor is back


@pytest.mark.parametrize("first", [0, 3])
def test_the_rate_is_of_the_steps_that_were_made_here(first: int) -> None:
    """An epoch that goes on from a backup has fewer."""
    text, view = shown(terminal=False, course=[Passed(1, first, 4), Passed(1, 4, 4, 0.5)])
    seconds = (4 - first) / view.rate
    assert 0 <= seconds < 5
    assert len(text.splitlines()) == 1
