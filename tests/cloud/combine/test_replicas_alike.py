"""Combining on replicas comes to the same bits as in one process, however many there are; each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import environment

ALIKE = Path(__file__).parent / "alike.py"
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def said(*arguments: str) -> str:
    """The last line that such a process prints."""
    done = subprocess.run(
        [sys.executable, str(ALIKE), *arguments],
        capture_output=True, text=True, env=environment() | QUIET, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def alone() -> Any:
    return json.loads(said("digests", "0"))


@pytest.mark.parametrize("replicas", ["1", "2", "4"])
def test_every_strategy_has_the_digest_of_numpy(alone: Any, replicas: str) -> None:
    assert json.loads(said("digests", replicas)) == alone


def test_every_strategy_has_a_digest_of_its_own(alone: Any) -> None:
    assert len(set(alone.values())) == len(alone) - 1  # nothing is too long for filter here: it is the mean


@pytest.mark.parametrize("replicas", ["1", "3"])
def test_any_value_codec_and_order_is_summed_and_refused_alike(replicas: str) -> None:
    assert said("values", replicas) == "alike"
