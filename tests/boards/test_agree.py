"""Programs for other boards: written and trained by the same code here, and what counts as alike."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import pytest
from boards import agree, programs, trained


def coded(*weights: float) -> str:
    return b64encode(np.array(weights, "<f4").tobytes()).decode()


WEIGHTS = {"cnn": coded(0.5, -2.0), "gru": coded(1.0)}
ONE = {"losses": {"cnn": [2.0, 1.0], "gru": [1.0, 0.5]}, "masks": ["a", "b"], "weights": WEIGHTS}


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
    assert capsys.readouterr().out.splitlines()[-1] == (
        "result boards=wrong largest_difference=2.0e-05 same_weights=2/2 largest_weight_difference=0.0e+00 seconds=1"
    )
    assert agree.wrong({"here": ONE, "there": other(losses={"cnn": [float("nan"), 1.0], "gru": [1.0, 0.5]})})


def test_weights_are_the_same_to_the_bit_or_told_how_far_they_are_apart() -> None:
    near = other(weights={"cnn": coded(0.5, -2.000002), "gru": coded(1.0)})
    assert agree.distances(ONE, near) == {"cnn": pytest.approx(1e-6, rel=0.1), "gru": 0.0}
    assert agree.weighed({"here": ONE, "there": near}) == "same_weights=1/2 largest_weight_difference=9.5e-07"
    assert agree.wrong({"here": ONE, "there": near}) == []
    assert [line.rpartition(", ")[2] for line in agree.table({"here": ONE, "there": near})[1:]] == [
        "9.5e-07",
        "none: the same bits",
    ]


@pytest.mark.parametrize(("weights", "far"), [((0.5, -2.0001), "5.0e-05"), ((0.5, float("nan")), "nan")])
def test_weights_that_are_further_apart_are_named(weights: tuple[float, ...], far: str) -> None:
    there = other(weights={**WEIGHTS, "cnn": coded(*weights)})
    assert agree.wrong({"here": ONE, "there": there}) == [
        f"there: weights of cnn are {far} from those of here, more than 1e-05"
    ]


def test_bits_that_differ_are_never_called_the_same() -> None:
    zeros = {"weights": {"cnn": coded(0.0, 1.0)}}
    assert agree.distances(zeros, {"weights": {"cnn": coded(-0.0, 1.0)}})["cnn"] > 0


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
    again, weights = trained.trained(tmp_path / "dropout")
    assert losses == again
    assert b64decode(found["weights"]["dropout"]) == weights
    assert weights != (tmp_path / "dropout" / "weights.bin").read_bytes()
    assert json.loads((tmp_path / "dropout" / "plan.json").read_text()) == {"learning_rate": 0.1}
