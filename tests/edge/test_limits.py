"""What a training process may take: memory and time are bounded, and a bound that is met is a reason, not an end."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from federations import never

from fedfleet.edge.child import ChildTrainer
from fedfleet.edge.limits import half
from fedfleet.wire.errors import ProgramError
from fedfleet.wire.messages import Blob, Plan, Task

Blobs = tuple[Path, Path]
pytestmark = pytest.mark.usefixtures("rooms")


def process(child: ChildTrainer) -> subprocess.Popen[bytes]:
    assert child._process is not None
    return child._process


def figure(path: str, name: str) -> int:
    found = re.search(rf"^{name}:?\s+(\d+)", Path(path).read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def untouched(child: ChildTrainer) -> int:
    """More than the child can have reserved when it set its bound, in bytes."""
    return 1024 * figure(f"/proc/{process(child).pid}/status", "VmData")


def test_the_child_is_bounded_before_it_reads_a_program(child: ChildTrainer, task: Task, blobs: Blobs) -> None:
    child.train(replace(task, deadline=100.0), *blobs, never)
    limits = f"/proc/{process(child).pid}/limits"
    assert 0 <= figure(limits, "Max data size") - 2**30 < untouched(child)
    assert figure(limits, "Max core file size") == 0
    assert 200 <= figure(limits, "Max cpu time") <= 260
    assert Path(f"/proc/{process(child).pid}/oom_score_adj").read_text() == "1000\n"
    child.train(replace(task, round=4, deadline=1e300), *blobs, never)
    assert figure(limits, "Max cpu time") > 2**31


def test_half_of_the_board_s_memory_is_the_bound_where_none_is_given(stored: Path, task: Task, blobs: Blobs) -> None:
    child = ChildTrainer("d1", stored, stored.parent / "log")
    child.train(task, *blobs, never)
    assert 0 <= figure(f"/proc/{process(child).pid}/limits", "Max data size") - half() < untouched(child)
    child.close()
    assert half() == pytest.approx(figure("/proc/meminfo", "MemTotal") * 512, rel=0.01)


def test_a_bound_that_stood_before_stays() -> None:
    code = (
        "import resource as r; from fedfleet.edge import limits;"
        "r.setrlimit(r.RLIMIT_DATA, (2**31, 2**32)); limits.hold(2**40); print(*r.getrlimit(r.RLIMIT_DATA));"
        "limits.hold(2**30 - limits.reserved()); print(*r.getrlimit(r.RLIMIT_DATA))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == [str(2**32), str(2**32), str(2**30), str(2**32)]


def test_what_libraries_reserve_and_never_touch_is_not_counted() -> None:
    """As NumPy for 64-bit ARM does: 300 MB here, where 100 MB are allowed."""
    code = (
        "import mmap; from fedfleet.edge import limits; kept = mmap.mmap(-1, 300 * 2**20, mmap.MAP_PRIVATE);"
        "limits.hold(100 * 2**20); fine = mmap.mmap(-1, 60 * 2**20, mmap.MAP_PRIVATE); print('fine');"
        "much = mmap.mmap(-1, 60 * 2**20, mmap.MAP_PRIVATE); print('much')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout == "fine\n", found.stderr
    assert "Cannot allocate memory" in found.stderr


def test_training_that_goes_on_for_twice_the_deadline_is_ended_and_named(
    child: ChildTrainer, task: Task, blobs: Blobs
) -> None:
    child.train(task, *blobs, never)
    began = time.monotonic()
    endless = replace(task, plan=Plan(steps=10_000_000, learning_rate=0.001), deadline=0.2)
    with pytest.raises(ProgramError, match="^the training process ended by signal 24, having computed for twice the"):
        child.train(endless, *blobs, never)
    assert time.monotonic() - began < 30
    assert child.train(task, *blobs, never) is not None


def test_memory_that_is_not_there_is_a_reason_and_the_child_goes_on(
    child: ChildTrainer, task: Task, blobs: Blobs, tmp_path: Path
) -> None:
    first = child.train(task, *blobs, never)
    before = process(child).pid
    taken = figure(f"/proc/{before}/status", "VmData") * 1024
    large = blobs[0].read_bytes() + bytes(2**26)
    (tmp_path / "large").write_bytes(large)
    was = resource.prlimit(before, resource.RLIMIT_DATA, (taken + 2**24, resource.RLIM_INFINITY))
    with pytest.raises(ProgramError, match="^training needs more than the 1024 MiB of memory that it may take here$"):
        child.train(replace(task, program=Blob.of(large)), tmp_path / "large", blobs[1], never)
    resource.prlimit(before, resource.RLIMIT_DATA, was)
    again = child.train(task, *blobs, never)
    assert first is not None
    assert again is not None
    assert again.delta == first.delta
    assert process(child).pid == before
