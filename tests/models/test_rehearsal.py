from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fedfleet.models import compiler, rehearsal, zoo
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import ProgramError


@pytest.fixture(scope="module")
def plain() -> Compiled:
    return compiler.compile(zoo.tabular(4, 3), "sparse_categorical_crossentropy")


def test_a_training_process_is_far_smaller_than_tensorflow(plain: Compiled) -> None:
    peak = rehearsal.peak_mib(plain)
    assert peak is not None
    assert 20 < peak < 100


def test_the_peak_grows_with_the_weights(plain: Compiled) -> None:
    model = tf.keras.Sequential([tf.keras.Input((1000,)), tf.keras.layers.Dense(3000)])
    large = compiler.compile(model, "mean_squared_error")
    one, other = rehearsal.peak_mib(plain), rehearsal.peak_mib(large)
    assert one is not None
    assert other is not None
    # weights, anchor, momentum, what the child started from and its difference; and what a step needs of its own
    assert other - one > 10 * large.weights.nbytes / 2**20


def test_the_memory_of_this_process_is_not_counted(plain: Compiled) -> None:
    ballast = np.ones(200 * 2**17)
    peak = rehearsal.peak_mib(plain)
    assert peak is not None
    assert peak < 100 < ballast.nbytes / 2**20


def test_a_program_that_does_not_run_is_told_in_one_line(plain: Compiled) -> None:
    with pytest.raises(ProgramError, match="a process that trains ended with exit code 1: .*ProgramError") as caught:
        rehearsal.peak_mib(replace(plain, program=b"not a program"))
    assert "\n" not in str(caught.value)


def test_without_a_runtime_of_its_own_nothing_is_claimed(
    plain: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ai_edge_litert", "tflite_runtime"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert rehearsal.peak_mib(plain) is None
