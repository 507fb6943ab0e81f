"""Error feedback: nothing is lost for good, nothing is counted twice, and a power cut changes no bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import never
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.edge.local import LocalTrainer
from fedfleet.edge.private import Private
from fedfleet.edge.residual import encoded
from fedfleet.wire.codecs import Weights, grow
from fedfleet.wire.errors import ProgramError, StoreError
from fedfleet.wire.messages import Plan, Task, Update

DIGEST = "d" * 64
P = 300
LOSSY = ("float16", "int8", "int4", "topk:0.1+float32", "topk:0.05+int4+zlib")


def kept(folder: Path, digest: str = DIGEST) -> Private:
    return Private(folder / "residual", digest, np.zeros(P, np.float32), programs=1)


def learned(number: int) -> Weights:
    return (np.random.default_rng(number).normal(size=P) * 0.01).astype(np.float32)


def sent(name: str, delta: Weights, store: Private, number: int) -> Weights:
    """What the cloud gets in a round."""
    return grow(name, encoded(name, delta.copy(), store, number, seed=number), P)


@pytest.mark.parametrize("name", LOSSY)
def test_all_that_was_learned_is_what_was_sent_and_what_is_still_kept(name: str, tmp_path: Path) -> None:
    store, total = kept(tmp_path), np.zeros(P)
    for number in range(1, 13):
        total += sent(name, learned(number), store, number)
    wanted = sum(learned(number).astype(np.float64) for number in range(1, 13))
    np.testing.assert_allclose(total + store.before(13), wanted, atol=1e-7)
    assert np.abs(total - wanted).max() > 1e-6  # something is left out


def test_what_topk_leaves_out_is_sent_when_it_has_grown(tmp_path: Path) -> None:
    store, always = kept(tmp_path), np.linspace(1, 2, P, dtype=np.float32)
    first = sent("topk:0.1+float32", always, store, 1)
    assert np.count_nonzero(first) == P // 10
    total = first + sum(sent("topk:0.1+float32", always, store, number) for number in range(2, 41))
    assert np.count_nonzero(total) == P
    np.testing.assert_allclose(total, 40 * always, rtol=0.7)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(LOSSY)), min_size=1, max_size=8), st.data())
def test_a_round_trained_again_after_a_power_cut_gives_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[int, str]], data: st.DataObject
) -> None:
    """Rounds pass over some numbers, as those that do not call the device; each may be trained several times."""
    once, often = kept(tmp_path_factory.mktemp("once")), kept(tmp_path_factory.mktemp("often"))
    number = 0
    for gap, name in rounds:
        number += gap
        wanted = sent(name, learned(number), once, number)
        for _ in range(data.draw(st.integers(1, 3))):
            assert sent(name, learned(number), often, number).tobytes() == wanted.tobytes()
    assert once.before(number + 1).tobytes() == often.before(number + 1).tobytes()


def test_float32_keeps_nothing_and_takes_along_what_is_still_kept(tmp_path: Path) -> None:
    store = kept(tmp_path)
    assert sent("float32", learned(1), store, 1).tobytes() == learned(1).tobytes()
    assert not (tmp_path / "residual").exists()
    coded = sent("int4", learned(2), store, 2)
    flushed = sent("float32", learned(3), store, 3)
    np.testing.assert_allclose(coded + flushed, learned(2) + learned(3), atol=1e-8)
    assert not store.before(4).any()
    assert sent("float32", learned(4), store, 4).tobytes() == learned(4).tobytes()
    assert sorted(path.name for path in tmp_path.rglob("*.weights")) == ["2.weights", "3.weights"]


def test_what_another_program_left_out_is_gone(tmp_path: Path) -> None:
    sent("int4", learned(1), kept(tmp_path), 1)
    other = kept(tmp_path, "e" * 64)
    assert not other.before(2).any()
    sent("int4", learned(2), other, 2)
    assert [path.name for path in (tmp_path / "residual").iterdir()] == ["e" * 64]


def test_a_residual_that_has_rotted_is_left_out(tmp_path: Path) -> None:
    store = kept(tmp_path)
    sent("int4", learned(1), store, 1)
    (path,) = tmp_path.rglob("*.weights")
    path.write_bytes(path.read_bytes()[:-1])
    assert sent("float32", learned(2), store, 2).tobytes() == learned(2).tobytes()


@pytest.mark.parametrize("value", [2.0**32, -1e38, np.inf, np.nan])
def test_what_no_sum_would_take_is_not_carried_on(value: float, tmp_path: Path) -> None:
    store, bad = kept(tmp_path), learned(2)
    sent("int4", learned(1), store, 1)
    before = store.before(2)
    bad[7] = value
    with pytest.raises(ProgramError, match=r"diverged in round 2: weights move by 2\^32; lower the learning rate"):
        encoded("int4", bad, store, 2, seed=1)
    assert store.before(3).tobytes() == before.tobytes()


def test_a_disk_without_room_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "residual").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be made: .*; make room on the disk"):
        encoded("int4", learned(1), kept(tmp_path), 1, seed=1)


def trained(task: Task, blobs: tuple[Path, Path], stored: Path) -> Update:
    update = LocalTrainer("d1", stored).train(task, *blobs, never)
    assert update is not None
    return update


def coded(task: Task, name: str, **fields: int) -> Task:
    return replace(task, plan=replace(task.plan, codec=name), **fields)


def test_a_device_sends_what_the_plan_says_and_goes_on_from_what_it_left_out(
    task: Task, blobs: tuple[Path, Path], stored: Path
) -> None:
    whole = np.frombuffer(trained(task, blobs, stored).delta, "<f4")
    update = trained(coded(task, "topk:0.1+int4"), blobs, stored)
    assert (update.codec, update.round) == ("topk:0.1+int4", 3)
    assert len(update.delta) < 4 * whole.size / 16
    back = grow(update.codec, update.delta, whole.size)
    (path,) = (stored.parent / "residual").rglob("3.weights")
    rest = np.frombuffer(path.read_bytes()[:-32], "<f4")
    np.testing.assert_allclose(back + rest, whole, atol=1e-9)
    assert trained(coded(task, "topk:0.1+int4"), blobs, stored).delta == update.delta  # the power was cut
    later = np.frombuffer(trained(replace(task, round=4), blobs, stored).delta, "<f4")
    (stored.parent / "residual").rename(stored.parent / "gone")
    without = np.frombuffer(trained(replace(task, round=4), blobs, stored).delta, "<f4")
    np.testing.assert_allclose(later, without + rest, atol=1e-8)


@pytest.mark.parametrize("name", ["zip", "topk:0.1+int3", "x" * 1000, ""])
def test_a_codec_that_is_not_known_here_does_not_leave_the_device_out(
    task: Task, blobs: tuple[Path, Path], stored: Path, name: str
) -> None:
    update = trained(coded(task, name), blobs, stored)
    assert update.codec == "float32"
    assert update.delta == trained(task, blobs, stored).delta
    assert not (stored.parent / "residual").exists()


def test_training_that_diverges_leaves_no_residual(task: Task, blobs: tuple[Path, Path], stored: Path) -> None:
    wild = replace(task, plan=Plan(learning_rate=1e30, steps=20, codec="int4"))
    with pytest.raises(ProgramError, match="training diverged"):
        trained(wild, blobs, stored)
    assert not (stored.parent / "residual").exists()
