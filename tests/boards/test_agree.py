"""Programs for other boards: written and trained by the same code here, and what counts as alike."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from boards import agree, programs, trained

ONE = {"losses": {"cnn": [2.0, 1.0], "gru": [1.0, 0.5]}, "masks": ["a", "b"]}


def other(**changes: object) -> agree.Found:
    return {**ONE, **changes}


def test_losses_may_differ_in_the_last_digits() -> None:
    near = other(losses={"cnn": [2.00001, 1.0], "gru": [1.0, 0.5]})
    assert agree.wrong({"here": ONE, "there": near}) == []
    assert agree.apart(ONE, near) == pytest.approx({"cnn": 5e-6, "gru": 0.0})
    assert agree.worst({"here": ONE, "same": ONE, "there": near}) == pytest.approx(5e-6)


def test_losses_that_are_further_apart_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    far = {"here": ONE, "same": ONE, "there": other(losses={"cnn": [2.0, 1.0], "gru": [1.0, 0.50001]})}
    assert agree.wrong(far) == ["there: losses of gru are 2.0e-05 from those of here, more than 1e-05"]
    assert not agree.verdict(far, 1.4)
    assert capsys.readouterr().out.splitlines()[-1] == "result boards=wrong largest_difference=2.0e-05 seconds=1"
    assert agree.wrong({"here": ONE, "there": other(losses={"cnn": [float("nan"), 1.0], "gru": [1.0, 0.5]})})


def test_masks_must_be_the_same_to_the_bit() -> None:
    assert agree.wrong({"here": ONE, "there": other(masks=["a", "c"])}) == [
        "there: masks of dropout differ from those of here"
    ]


def test_a_program_that_a_board_left_out_is_no_agreement() -> None:
    with pytest.raises(KeyError):
        agree.wrong({"here": ONE, "there": other(losses={"cnn": [2.0, 1.0]})})
    with pytest.raises(ValueError, match="shorter"):
        agree.wrong({"here": ONE, "there": other(losses={"cnn": [2.0], "gru": [1.0, 0.5]})})


def test_a_process_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(agree.Failed, match=r"ended with exit code 3: no runtime$"):
        agree.said([sys.executable, "-c", "import sys; print('no runtime', file=sys.stderr); sys.exit(3)"], os.environ)


def test_a_written_program_trains_as_a_board_trains_it(tmp_path: Path) -> None:
    programs.write(tmp_path / "dropout", programs.KINDS["dropout"])
    (tmp_path / "masks.tflite").write_bytes(programs.masks())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "edge")}
    found = agree.report([sys.executable, str(trained.__file__), str(tmp_path)], environment)
    losses = found["losses"]["dropout"]
    assert len(losses) == 20
    assert len(set(losses)) == 20
    assert sum(losses[-5:]) < sum(losses[:5])
    assert len(set(found["masks"])) == len(trained.SEEDS)
    assert found["losses"]["dropout"] == trained.losses(tmp_path / "dropout")
    assert json.loads((tmp_path / "dropout" / "plan.json").read_text()) == {"learning_rate": 0.1}
