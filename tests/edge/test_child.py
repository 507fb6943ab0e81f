"""Training in a child: the same bits, and nothing that happens to the child reaches the parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from federations import never

from fedfleet.edge.child import ChildTrainer
from fedfleet.edge.local import LocalTrainer
from fedfleet.wire.errors import FrameError, ProgramError, StoreError
from fedfleet.wire.messages import Blob, Plan, Task

Blobs = tuple[Path, Path]
ENDLESS = Plan(steps=10_000_000, learning_rate=0.001)
DEVICE = "d1"
pytestmark = pytest.mark.usefixtures("rooms")


def process(child: ChildTrainer) -> subprocess.Popen[bytes]:
    assert child._process is not None
    return child._process


def answering(child: ChildTrainer) -> bool:
    """Wait until the child has begun to answer."""
    pipe = process(child).stdout
    assert pipe is not None
    return bool(select.select([pipe], [], [], 60)[0])


def same_as_local(child: ChildTrainer, task: Task, blobs: Blobs, stored: Path) -> None:
    update, local = child.train(task, *blobs, never), LocalTrainer(DEVICE, stored).train(task, *blobs, never)
    assert update is not None
    assert local is not None
    assert len(local.delta) > 2**16  # of two parts
    assert replace(update, metrics={}) == replace(local, metrics={})
    assert (update.metrics["loss"], update.metrics["steps"]) == (local.metrics["loss"], local.metrics["steps"])


def test_the_same_update_as_in_this_process_to_the_bit(
    child: ChildTrainer, task: Task, blobs: Blobs, stored: Path
) -> None:
    same_as_local(child, task, blobs, stored)
    first = process(child).pid
    same_as_local(child, replace(task, round=4), blobs, stored)
    assert process(child).pid == first  # it is kept warm


def test_a_child_that_is_killed_in_the_middle_is_named_and_the_next_round_works(
    child: ChildTrainer, task: Task, blobs: Blobs, stored: Path
) -> None:
    def kill() -> bool:
        os.kill(process(child).pid, signal.SIGKILL)
        return False

    with pytest.raises(ProgramError, match="^the training process ended by signal 9"):
        child.train(replace(task, plan=ENDLESS), *blobs, kill)
    same_as_local(child, task, blobs, stored)


def test_a_child_that_died_between_two_rounds_is_started_again(
    child: ChildTrainer, task: Task, blobs: Blobs, stored: Path
) -> None:
    same_as_local(child, task, blobs, stored)
    process(child).kill()
    os.waitid(os.P_PID, process(child).pid, os.WEXITED | os.WNOWAIT)
    same_as_local(child, task, blobs, stored)


def test_a_child_that_dies_as_it_is_told_to_stop_is_named(
    child: ChildTrainer, task: Task, blobs: Blobs, stored: Path
) -> None:
    def stop() -> bool:
        os.kill(process(child).pid, signal.SIGKILL)
        os.waitid(os.P_PID, process(child).pid, os.WEXITED | os.WNOWAIT)
        return True

    with pytest.raises(ProgramError, match="ended by signal 9"):
        child.train(replace(task, plan=ENDLESS), *blobs, stop)
    same_as_local(child, task, blobs, stored)


def test_it_stops_in_the_middle_and_goes_on_with_the_next_task(
    child: ChildTrainer, task: Task, blobs: Blobs, stored: Path
) -> None:
    same_as_local(child, task, blobs, stored)
    before = process(child).pid
    began = time.monotonic()
    assert child.train(replace(task, plan=ENDLESS), *blobs, lambda: True) is None
    assert time.monotonic() - began < 8  # well below the patience after which the child is ended
    assert process(child).pid == before
    same_as_local(child, task, blobs, stored)


def test_a_stop_that_comes_after_the_answer_leaves_nothing_in_the_pipe(
    child: ChildTrainer, task: Task, blobs: Blobs, stored: Path
) -> None:
    other = replace(task, round=8)
    assert child.train(other, *blobs, lambda: answering(child)) is None
    same_as_local(child, task, blobs, stored)
    child.close()  # a new child takes longer to begin than we take to ask
    assert child.train(replace(task, program=Blob("0" * 64, 1)), *blobs, lambda: answering(child)) is None
    same_as_local(child, task, blobs, stored)


def test_what_the_trainer_refuses_is_told_in_its_words(
    child: ChildTrainer, task: Task, blobs: Blobs, tmp_path: Path
) -> None:
    with pytest.raises(ProgramError, match="weights 000000000000 on disk have other bytes"):
        child.train(replace(task, weights=Blob("0" * 64, 8)), *blobs, never)
    empty = ChildTrainer(DEVICE, tmp_path / "empty", tmp_path / "empty.log")
    with pytest.raises(ProgramError, match="holds no examples yet: fedfleet-agent import FILE"):
        empty.train(task, *blobs, never)
    empty.close()
    empty.close()


def test_an_answer_that_is_no_frame_ends_the_child(child: ChildTrainer, task: Task, blobs: Blobs, stored: Path) -> None:
    child._process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # echoes requests
    with pytest.raises(FrameError, match="expected kind offer, got 'train'"):
        child.train(task, *blobs, never)
    same_as_local(child, task, blobs, stored)


def test_a_child_that_ends_by_itself_is_told_with_its_last_words(
    child: ChildTrainer, task: Task, blobs: Blobs, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", "import sys; sys.stdin.buffer.read(4); sys.exit(3)"]
    child._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    (tmp_path / "trainer.log").write_text("first\nno memory left\n")
    with pytest.raises(ProgramError, match=r"^the training process ended with exit code 3: no memory left$"):
        child.train(task, *blobs, never)


def test_a_log_that_cannot_be_written_is_named(task: Task, blobs: Blobs, stored: Path, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(StoreError, match=r"no training process with log .*/log: Is a directory"):
        ChildTrainer(DEVICE, stored, tmp_path / "log").train(task, *blobs, never)


def test_the_child_trains_where_tensorflow_cannot_be_imported(
    child: ChildTrainer, task: Task, blobs: Blobs, stored: Path, tmp_path: Path, rooms: Callable[..., None]
) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("tensorflow", "keras", "jax"):
        (blocked / f"{name}.py").write_text(
            f"open({str(blocked / 'tried')!r}, 'a').write('{name}\\n')\nraise ImportError"
        )
    rooms(blocked)
    probe = subprocess.run([sys.executable, "-c", "import tensorflow"], capture_output=True, timeout=60, check=False)
    assert probe.returncode == 1
    assert (blocked / "tried").read_text() == "tensorflow\n"
    (blocked / "tried").unlink()
    same_as_local(child, task, blobs, stored)
    assert not (blocked / "tried").exists()


LOADED = "import sys, fedfleet.edge.__main__; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def test_the_agent_itself_loads_neither_numpy_nor_a_runtime() -> None:
    found = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(found.stdout.split())
    assert {"fedfleet", "paho"} <= loaded
    assert not loaded & {"numpy", "ai_edge_litert", "tflite_runtime", "tensorflow", "keras", "jax", "sklearn"}


def test_the_child_loads_no_more_than_it_needs(stored: Path) -> None:
    """Each of these takes 0.5 to 1.5 MiB of the memory of a board, and none is needed for drawing batches."""
    code = (
        "import sys, fedfleet.edge.worker; from fedfleet.edge.data import Store;"
        f"list(Store.open({str(stored)!r}).batches(8, 1));"
        "print(sorted({'zipfile', 'numpy.ma', 'subprocess'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
