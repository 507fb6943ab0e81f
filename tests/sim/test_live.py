"""The terminal view: what is left on the screen, and what a log file gets."""

from __future__ import annotations

import io
import math
import re
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from fedfleet.cloud.federation import RoundRecord
from fedfleet.sim.live import Screen, headline
from fedfleet.sim.record import Facts

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
ROWS = [
    ("trained on", "accuracy", "left"),
    ("alone", "50.00 %", "nothing"),
    ("federation, 3 rounds", "90.00 %", "3 MB"),
]


def ended(number: int, accuracy: float = 0.5, late: int = 0, state: str = "closed", reason: str = "") -> RoundRecord:
    scores = {"loss": 0.4, "accuracy": accuracy}
    return RoundRecord(
        number, state, reason, 10, 10 - late, late, 16, 0.7, 10**6, 2 * 10**6, 1.5, "cd" * 32, 50.0, scores
    )


def terminal(width: int = 100, term: str = "xterm") -> Console:
    environment = {"TERM": term}
    return Console(
        force_terminal=True, width=width, height=30, file=io.StringIO(), color_system=None, _environ=environment
    )


def log_file() -> Console:
    return Console(file=io.StringIO(), width=40, _environ={})


def written(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def screen(text: str) -> list[str]:
    """What a terminal of endless height shows after `text`: new lines, carriage returns, cursor up, erase line."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", text):
        if piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece.endswith("A") and piece.startswith("\x1b"):
            row -= int(piece[2:-1])
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif not piece.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines]


def view(console: Console, rounds: int = 20) -> Screen:
    return Screen(console, "digits: 10 devices", rounds, "accuracy", "")


def test_the_last_screen_holds_the_whole_history_in_order() -> None:
    console = terminal()
    with view(console) as shown:
        for number in range(1, 31):
            shown.progress(number, 10, 3, "3 reported; waiting for dev-004")
            shown.round(ended(number, number / 100))
    lines = [line for line in screen(written(console)) if line]
    assert lines[0] == "digits: 10 devices"
    assert lines[1].split("  ")[0].strip() == "round"
    assert [line.split()[0] for line in lines[2:]] == [str(number) for number in range(1, 31)]
    assert not any("waiting" in line or "━" in line for line in lines)


def test_columns_stand_below_their_headings() -> None:
    console = terminal()
    with view(console) as shown:
        shown.say("a word before the first round")
        shown.round(ended(7, 0.5))
    assert screen(written(console))[1] == "a word before the first round"
    head, row = (line for line in screen(written(console)) if line.endswith(("seconds", "1.5")))
    for title, value in (
        ("round", "7"),
        ("late", "0"),
        ("accuracy", "50.00 %"),
        ("kB up", "1,000"),
        ("seconds", "1.5"),
    ):
        assert head.index(title) + len(title) == row.rindex(value, 0, head.index(title) + len(title)) + len(value)


def test_what_the_fleet_is_doing_is_shown_below_the_rows() -> None:
    console = terminal()
    with view(console) as shown:
        shown.round(ended(1))
        shown.progress(2, 10, 4, "waiting for dev-004, dev-007")
        shown.say("a word")
        lines = screen(written(console))
    at = next(i for i, line in enumerate(lines) if "1 of 20 rounds" in line)
    assert lines[at].endswith("round 2: 4 of 10 reported")
    assert "━" in lines[at]
    assert lines[at][0] in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    assert lines[at + 1] == "  waiting for dev-004, dev-007"
    assert lines[at - 1] == "a word"
    assert lines[at - 2].split()[0] == "1"


def test_a_long_reason_takes_one_line() -> None:
    console = terminal(width=60)
    with view(console) as shown:
        shown.progress(2, 10, 4, "waiting for " + ", ".join(f"dev-{i}" for i in range(40)))
        shown.say("word")
        assert [line for line in screen(written(console)) if line][-1].endswith("…")


def test_a_round_that_was_abandoned_says_why_and_does_not_count() -> None:
    console = terminal()
    with view(console) as shown:
        shown.round(ended(1, state="abandoned", reason="deadline of 30 s"))
        shown.progress(2, 10, 0, "")
        shown.say("word")
        text = "\n".join(screen(written(console)))
    assert "abandoned: deadline of 30 s" in text
    assert "0 of 20 rounds" in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_the_terminal_is_given_back_however_it_ends(error: type[BaseException]) -> None:
    console, before = terminal(), set(threading.enumerate())
    with pytest.raises(error), view(console):
        assert written(console).count(HIDE) == 1
        started = set(threading.enumerate()) - before
        raise error
    assert written(console).rindex(SHOW) > written(console).rindex(HIDE)
    for thread in started:
        thread.join(10)
    assert [thread.is_alive() for thread in started] == [False]


def test_closing_again_does_nothing() -> None:
    console = terminal()
    shown = view(console)
    shown.close()
    text = written(console)
    shown.close()
    assert written(console) == text


def test_a_log_file_gets_the_first_line_at_once_and_one_line_a_round() -> None:
    console = log_file()
    with view(console) as shown:
        assert written(console) == "digits: 10 devices\n"
        shown.progress(1, 10, 3, "waiting for dev-004")
        shown.round(ended(1, 0.5))
        shown.round(ended(2, 0.625, late=2, state="abandoned", reason="deadline of\n30 s"))
        shown.say("report: runs/x/report.html")
    assert written(console).splitlines() == [
        "digits: 10 devices",
        "round 1: accuracy 50.00 %, 10 of 10 reported, 0 late, up 1 MB, down 2 MB, 1.5 s",
        "round 2: accuracy 62.50 %, 8 of 10 reported, 2 late, up 1 MB, down 2 MB, 1.5 s, abandoned: deadline of 30 s",
        "report: runs/x/report.html",
    ]


def test_every_line_is_flushed() -> None:
    class Slow(io.StringIO):
        seen = ""

        def flush(self) -> None:
            self.seen = self.getvalue()

    file = Slow()
    with view(Console(file=file, width=40, _environ={})) as shown:
        assert file.seen == "digits: 10 devices\n"
        shown.round(ended(1))
        assert file.seen.count("\n") == 2


def test_a_terminal_that_cannot_move_its_cursor_is_a_log_file() -> None:
    console = terminal(term="dumb")
    with view(console) as shown:
        shown.progress(1, 10, 3, "waiting")
        shown.round(ended(1))
    assert "\x1b" not in written(console)
    assert written(console).count("\n") == 2


def test_the_answer_in_a_log_file_is_aligned() -> None:
    console = log_file()
    with view(console) as shown:
        shown.table(ROWS)
    assert written(console).splitlines()[1:] == [
        "trained on            accuracy  left",
        "alone                 50.00 %   nothing",
        "federation, 3 rounds  90.00 %   3 MB",
    ]


def test_the_answer_on_a_terminal_holds_every_cell() -> None:
    console = terminal()
    with view(console) as shown:
        shown.table(ROWS)
    text = "\n".join(screen(written(console)))
    assert all(cell in text for row in ROWS for cell in row)
    assert "╭" in text


@pytest.mark.parametrize("console", [terminal(), log_file()])
def test_what_others_wrote_cannot_steer_the_terminal(console: Console) -> None:
    with view(console) as shown:
        shown.say("a [bold]b[/bold] \x1b[2J\x07")
        shown.round(ended(1, state="abandoned", reason="\x1b]0;title\x07[red]"))
        shown.progress(1, 1, 0, "\x1b[2J [/]")
    assert "a [bold]b[/bold] ?[2J?" in written(console)
    assert "\x1b[2J" not in written(console)
    assert "\x1b]" not in written(console)
    assert "[red]" in written(console)


def test_the_best_score_so_far_and_late_devices_stand_out() -> None:
    console = Console(
        force_terminal=True, width=100, file=io.StringIO(), color_system="standard", _environ={"TERM": "xterm"}
    )
    with view(console) as shown:
        for record in (ended(0, math.nan), ended(1, 0.5), ended(2, 0.4, late=3), ended(3, math.nan), ended(4, 0.6)):
            shown.round(record)
    text = written(console)
    green = re.findall(r"\x1b\[32m\s*([\d.]+ %)", text)
    assert green == ["50.00 %", "60.00 %"]
    assert re.findall(r"\x1b\[33m\s*(\d+)\x1b", text) == ["3"]


def test_for_an_error_less_is_better() -> None:
    console = Console(
        force_terminal=True, width=100, file=io.StringIO(), color_system="standard", _environ={"TERM": "xterm"}
    )
    with Screen(console, "turbofan", 3, "rmse", "cycles") as shown:
        for number, error in enumerate((40.0, 50.0, 30.0), 1):
            shown.round(replace(ended(number), scores={"rmse": error}))
    assert re.findall(r"\x1b\[32m\s*([\d.]+ cycles)", written(console)) == ["40.00 cycles", "30.00 cycles"]


def test_the_headline_says_what_the_run_is_about() -> None:
    facts = Facts(
        "run-1", "digits", "iid", "fedavg", "mqtt", "", 7, 1, 9, "accuracy", 1.0, "", 9, "9f", 9, {}, ((1,),), ("a",)
    )
    assert headline(facts) == "run-1: digits · 1 devices · iid · fedavg · mqtt"
