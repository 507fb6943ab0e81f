"""Replicas, each test in a process of its own: parts of the CPU are decided on once."""

from __future__ import annotations

import subprocess
import sys

from processes import environment

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def said(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"from fedfleet.cloud.replicas import devices, mirrored, reserve\n{code}"],
        capture_output=True, text=True, env=environment() | QUIET, timeout=120, check=False,
    )  # fmt: skip
    return (done.stdout + done.stderr.splitlines()[-1] if done.returncode else done.stdout).strip()


def test_a_cpu_is_parted_into_as_many_replicas_as_are_wanted() -> None:
    assert said("print(mirrored(4).num_replicas_in_sync, len(set(devices(4))), len(devices(2)))") == "4 4 2"


def test_one_replica_needs_no_parts() -> None:
    assert said("print(mirrored().num_replicas_in_sync, devices(), devices(1))").split() == [
        "1", "['/device:CPU:0']", "['/device:CPU:0']",
    ]  # fmt: skip


def test_too_many_replicas_are_refused() -> None:
    assert "65 replicas on a CPU are too many; ask for 64 or fewer" in said("mirrored(65)")
    assert "not -1" in said("mirrored(-1)")


def test_parts_are_refused_once_tensorflow_computes() -> None:
    found = said("import tensorflow as tf; tf.constant(1.0) + 1; mirrored(2)")
    assert "computes already, with 1 of 2 replicas: ask for them in a process of its own" in found


def test_several_groups_share_the_parts_of_the_largest() -> None:
    groups = "mirrored(2).num_replicas_in_sync, mirrored(3).num_replicas_in_sync"
    assert said(f"reserve(2, 3); print({groups})") == "2 3"
    assert "with 2 of 3 replicas" in said(f"print({groups})")
