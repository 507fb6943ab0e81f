"""A device program under the installed runtime."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfleet.edge.runtime import SIGNATURES, Program, runtime
from fedfleet.models.compiled import Compiled
from fedfleet.wire.errors import ProgramError
from fedfleet.wire.examples import Examples
from fedfleet.wire.messages import SCALARS


def loaded(small: Compiled, blobs: tuple[Path, Path]) -> Program:
    program = Program(blobs[0], small.digest)
    program.set(small.weights)
    return program


def batch(small: Compiled, examples: Examples) -> dict[str, Any]:
    size = small.batch
    return {"x": examples.x[:size], "y": examples.y[:size], "weight": np.ones(size, np.float32)}


def plan(rate: float) -> dict[str, Any]:
    return {name: np.array([rate if name == "learning_rate" else 0.0], np.float32) for name in SCALARS}


def test_it_knows_its_sizes(small: Compiled, blobs: tuple[Path, Path]) -> None:
    program = Program(blobs[0], small.digest)
    assert (program.batch, program.parameters, program.classes) == (8, small.weights.size, 3)
    assert program.digest == small.digest


def test_weights_go_in_and_come_out_to_the_bit(small: Compiled, blobs: tuple[Path, Path]) -> None:
    assert loaded(small, blobs).get().tobytes() == small.weights.tobytes()


def test_a_step_lowers_the_loss_and_a_rate_of_0_moves_nothing(
    small: Compiled, blobs: tuple[Path, Path], examples: Examples
) -> None:
    program, one = loaded(small, blobs), batch(small, examples)
    program.train(**one, **plan(0.0))
    assert program.get().tobytes() == small.weights.tobytes()
    before = program.train(**one, **plan(0.01))
    loss, correct, count = program.evaluate(**one)
    assert loss / count < before
    assert count == 8
    assert 0 <= correct <= 8


def test_infer_gives_probabilities(small: Compiled, blobs: tuple[Path, Path], examples: Examples) -> None:
    output = loaded(small, blobs).infer(examples.x[:1])
    assert output.shape == (1, 3)
    assert output.sum() == pytest.approx(1, abs=1e-5)


def test_a_wrong_digest_is_found_before_loading(small: Compiled, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(small.program[:-1])
    with pytest.raises(ProgramError, match=f"program {small.digest[:12]} on disk has other bytes than its name says"):
        Program(tmp_path / "program", small.digest)
    with pytest.raises(ProgramError, match="absent cannot be read: No such file or directory"):
        Program(tmp_path / "absent", small.digest)


@pytest.mark.parametrize("size", [0, 1])
def test_a_wrong_number_of_weights_is_named(small: Compiled, blobs: tuple[Path, Path], size: int) -> None:
    with pytest.raises(
        ProgramError, match=rf"weights have shape \({size},\), the program wants \({small.weights.size},"
    ):
        Program(blobs[0], small.digest).set(np.zeros(size, np.float32))


def test_inputs_that_do_not_fit_are_one_line(small: Compiled, blobs: tuple[Path, Path], examples: Examples) -> None:
    one = batch(small, examples)
    with pytest.raises(ProgramError, match=f"^program {small.digest[:12]}, train: .+$"):
        loaded(small, blobs).train(**{**one, "x": one["x"][:, :5]}, **plan(0.1))


def test_the_runtime_is_one_of_those_that_are_installed() -> None:
    assert hasattr(runtime(), "Interpreter")
    assert {"set", "train"} < SIGNATURES


def test_a_tflite_file_that_is_no_device_program_is_named(tmp_path: Path) -> None:
    content = b"\x1c\x00\x00\x00TFL3" + bytes(64)
    (tmp_path / "other").write_bytes(content[:4] + b"XXXX" + content[8:])
    digest = hashlib.sha256((tmp_path / "other").read_bytes()).hexdigest()
    with pytest.raises(ProgramError, match=f"program {digest[:12]} does not load: "):
        Program(tmp_path / "other", digest)
