"""A process that is kept: started again when it dies, ended with whoever keeps it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedfleet.edge import supervise
from fedfleet.edge.stopping import Stopping
from fedfleet.edge.supervise import keep, kept


class Waits(Stopping):
    """Waits for nothing between two lives, remembers how long it should have, and stops after `most` of these."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.asked: list[float] = []

    def wait(self, seconds: float) -> bool:
        if seconds == supervise.POLL:
            return super().wait(0.01)
        self.asked.append(seconds)
        if len(self.asked) == self.most:
            self.set()
        return self.is_set()


def command(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_pauses_grow_with_each_failure(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "PAUSES", (1.0, 5.0))
    stopping = Waits(5)
    keep("it", command("import sys; sys.exit(3)"), stopping)
    assert stopping.asked == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert caplog.records[1].getMessage() == "it ended with exit code 3; starting it again in 2 s"


def test_a_life_that_was_long_enough_begins_at_the_first_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "HELD", 0.0)
    stopping = Waits(3)
    keep("it", command("import os; os.kill(os.getpid(), 9)"), stopping)
    assert stopping.asked == [1.0, 1.0, 1.0]


def test_signals_are_named_and_so_is_a_program_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    keep("it", command("import os; os.kill(os.getpid(), 9)"), Waits(1))
    keep("it", ["/no/such/program"], Waits(1))
    assert [record.getMessage() for record in caplog.records] == [
        "it ended by signal 9; starting it again in 1 s",
        "it cannot be started: No such file or directory; starting it again in 1 s",
    ]


def test_one_that_has_done_its_work_is_started_again_in_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    stopping = Waits(2)
    keep("it", command(""), stopping)
    assert (stopping.asked, caplog.records) == ([3600.0, 3600.0], [])


def test_it_is_asked_to_end_first(tmp_path: Path) -> None:
    code = f"""if True:
    import signal, sys, time
    from pathlib import Path
    signal.signal(15, lambda *_: sys.exit(Path({str(tmp_path / "asked")!r}).touch()))
    Path({str(tmp_path / "here")!r}).touch()
    time.sleep(60)
    """
    stopping = Stopping()
    with kept("it", command(code), stopping):
        while not (tmp_path / "here").exists():
            assert not stopping.wait(0.01)
    assert (tmp_path / "asked").exists()


@pytest.mark.parametrize("deaf", ["", "import signal; signal.signal(15, signal.SIG_IGN); "])
def test_it_ends_with_the_block_even_if_it_does_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: str
) -> None:
    monkeypatch.setattr(supervise, "PATIENCE", 0.2)
    code = f"{deaf}import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    stopping = Stopping()
    with kept("it", command(code), stopping):
        end = time.monotonic() + 20
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < end:
            stopping.wait(0.01)
        pid = int((tmp_path / "pid").read_text())
        assert Path(f"/proc/{pid}").exists()
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert stopping.is_set()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.usefixtures("rooms")
def test_its_stdin_ends_when_its_keeper_is_killed() -> None:
    child = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    code = f"""if True:
    import sys
    from fedfleet.edge.stopping import Stopping
    from fedfleet.edge.supervise import keep
    keep("it", [sys.executable, "-S", "-c", {child!r}], Stopping())
    """
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        watched = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
    assert select.select([watched], [], [], 10)[0]
    os.close(watched)
