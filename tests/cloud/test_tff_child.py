"""The process that has TensorFlow Federated, with another in its place: whatever happens, nothing of it stays behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import alive, children, until

from fedfleet.cloud.tff.alone import OPEN
from fedfleet.cloud.tff.child import EXPOSED, Child
from fedfleet.wire.errors import SettingsError

STANDS_IN = """
import os, socket, subprocess, sys, time
import numpy as np
from fedfleet.cloud.tff.serving import serve
from fedfleet.wire.errors import DataError

below = []

def twice(header, arrays):
    print("what native code prints", flush=True)
    below[:] = below or [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])]
    return {"said": header["said"], "below": below[0].pid}, [2 * array for array in arrays]

def refuse(header, arrays):
    raise DataError("the reason, in a line")

def fail(header, arrays):
    raise RuntimeError("the first line\\nand more")

def die(header, arrays):
    print("the last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), 9)

def leave(header, arrays):
    print("gone for a reason", file=sys.stderr, flush=True)
    os._exit(3)

def listen(header, arrays):
    server = socket.create_server(("", 0))
    port = server.getsockname()[1]
    with socket.create_connection(("localhost", port)) as client:
        client.sendall(b"hello")
        return {"port": port, "heard": server.accept()[0].recv(5).decode()}, []

serve({"listen": listen, "twice": twice, "refuse": refuse, "fail": fail, "die": die, "leave": leave,
       "sleep": lambda header, arrays: time.sleep(1000)})
"""
HOLDS = """
import os, sys
from fedfleet.cloud.tff.child import Child
child = Child("stands_in")
answer, _ = child.ask("x", 60.0, {"kind": "twice", "said": 1})
print(child.process, answer["below"], flush=True)
child.ask("x", 600.0, {"kind": "sleep"})
"""


@pytest.fixture(autouse=True)
def stands_in(tmp_path: Path, rooms: Callable[..., None]) -> None:
    (tmp_path / "stands_in.py").write_text(STANDS_IN)
    rooms(tmp_path)


@pytest.fixture
def child() -> Iterator[Child]:
    found = Child("stands_in")
    yield found
    found.close()


def group(child: Child) -> list[int]:
    """The process, and what it has started."""
    answer, _ = child.ask("x", 60.0, {"kind": "twice", "said": 0})
    assert alive(child.process) and alive(answer["below"])
    assert os.getpgid(answer["below"]) == child.process != os.getpgid(0)
    return [child.process, answer["below"]]


def gone(pids: list[int]) -> bool:
    return until(lambda: not any(map(alive, pids)))


def test_it_answers_with_arrays_as_they_were_sent(child: Child) -> None:
    sent = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4)), np.array([2**40], np.int64)]
    answer, found = child.ask("x", 60.0, {"kind": "twice", "said": "é"}, iter(sent), 3)
    assert answer["said"] == "é"
    assert [(each.dtype, each.tolist()) for each in found] == [(each.dtype, (2 * each).tolist()) for each in sent]
    first = child.process
    assert child.ask("x", 60.0, {"kind": "twice", "said": 2})[1] == []
    assert child.process == first


def test_nothing_is_started_before_it_is_asked(child: Child) -> None:
    assert child.process == 0
    child.close()


def test_closing_ends_all_that_it_has_started_and_the_next_question_starts_another(child: Child) -> None:
    before = group(child)
    child.close()
    assert gone(before)
    assert not set(group(child)) & set(before)


def test_it_ends_with_whoever_holds_it() -> None:
    found = Child("stands_in")
    pids = group(found)
    del found
    gc.collect()
    assert gone(pids)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_us_in_the_middle_of_an_answer(how: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert children(process.pid) == pids[:1]
    process.send_signal(how)
    assert process.communicate(timeout=60) is not None  # it holds neither of our pipes open
    assert gone(pids)


def test_what_it_refuses_is_said_for_whom_it_was_asked_and_it_goes_on(child: Child) -> None:
    pids = group(child)
    with pytest.raises(SettingsError) as caught:
        child.ask("strategy tff:x", 60.0, {"kind": "refuse"})
    assert str(caught.value) == "strategy tff:x: the reason, in a line"
    assert group(child) == pids


def test_any_other_error_ends_it_and_is_one_line(child: Child) -> None:
    pids = group(child)
    with pytest.raises(SettingsError) as caught:
        child.ask("tff:x", 60.0, {"kind": "fail"})
    assert str(caught.value) == "tff:x: TensorFlow Federated failed: RuntimeError: the first line"
    assert gone(pids)
    assert group(child) != pids


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("die", "the process with TensorFlow Federated ended by signal 9: the last words"),
        ("leave", "the process with TensorFlow Federated ended with exit code 3: gone for a reason"),
    ],
)
def test_why_it_died_is_said_and_what_it_started_goes_too(kind: str, text: str, child: Child) -> None:
    pids = group(child)
    with pytest.raises(SettingsError) as caught:
        child.ask("tff:x", 60.0, {"kind": kind})
    assert str(caught.value) == f"tff:x: {text}"
    assert gone(pids)


def test_one_that_dies_while_nobody_asks_is_replaced_and_leaves_nothing(child: Child) -> None:
    pids = group(child)
    os.kill(pids[0], signal.SIGKILL)
    assert until(lambda: not alive(pids[0]))
    assert group(child) != pids
    assert gone(pids)


def test_an_answer_that_takes_too_long_is_the_last(child: Child) -> None:
    pids = group(child)
    with pytest.raises(SettingsError, match="^tff:x: TensorFlow Federated had no answer within 0.2 s$"):
        child.ask("tff:x", 0.2, {"kind": "sleep"})
    assert gone(pids)


def test_what_it_writes_goes_to_the_log(tmp_path: Path) -> None:
    found = Child("stands_in", tmp_path / "tff.log")
    group(found)
    found.close()
    assert "what native code prints" in (tmp_path / "tff.log").read_text()


def network(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def test_nobody_else_reaches_what_it_listens_on(child: Child, caplog: pytest.LogCaptureFixture) -> None:
    """TFF's worker takes computations of anyone, on all addresses."""
    pids = group(child)
    if subprocess.run(["unshare", "--user", "--net", "true"], check=False, capture_output=True).returncode:
        assert "takes computations of anyone who reaches it: keep others out by a firewall" in caplog.text
        return
    assert {network(pid) for pid in pids}.isdisjoint({network("self")})
    answer, _ = child.ask("x", 60.0, {"kind": "listen"})
    assert answer["heard"] == "hello"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", answer["port"]), timeout=5)
    assert caplog.text == ""


def test_where_it_cannot_be_kept_apart_that_is_said_once(
    child: Child, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPEN, "1")
    for _ in range(2):
        group(child)
    assert [record.getMessage() for record in caplog.records] == [EXPOSED]


def test_a_module_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ended with exit code 1: .*No module named is_not_there"):
        Child("is_not_there").ask("tff:x", 60.0, {"kind": "twice"})
