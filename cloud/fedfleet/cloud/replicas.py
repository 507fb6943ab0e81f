"""The replicas that the cloud computes on: all GPUs, or parts of the CPU where there are none.

TensorFlow is loaded here: import this file only where replicas are asked for.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import tensorflow as tf

from fedfleet.wire.errors import SettingsError

MOST = 64  # parts of a CPU


def mirrored(count: int = 0) -> Any:
    """Return a `tf.distribute.MirroredStrategy` over `count` devices; 0 for all GPUs, or one CPU where there is none.

    Raises SettingsError where there are fewer, or where TensorFlow has begun to compute with fewer parts of the CPU.
    """
    return tf.distribute.MirroredStrategy(devices(count))


def reserve(*counts: int) -> None:
    """Have the CPU parted for the largest of `counts`, as it is once only: by who wants several groups of replicas."""
    devices(max(*counts, 0))


def devices(count: int = 0) -> list[str]:
    """Return the names of `count` devices, all of one kind; see `mirrored`."""
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")] if tf.config.list_physical_devices("GPU") else []
    if count < 0:
        raise SettingsError(f"replicas must be 0, for all there are, or a number of devices, not {count}")
    if gpus:
        if count > len(gpus):
            there = "is 1" if len(gpus) == 1 else f"are {len(gpus)}"
            raise SettingsError(f"{count} replicas want as many GPUs, and there {there}; ask for at most that")
        return gpus[: count or len(gpus)]
    return [cpu.name for cpu in _parts(count or 1)]


def _parts(count: int) -> list[Any]:
    if count > MOST:
        raise SettingsError(f"{count} replicas on a CPU are too many; ask for {MOST} or fewer")
    whole = tf.config.list_physical_devices("CPU")[0]
    if count > 1:
        with suppress(RuntimeError):  # it has begun to compute; what it has then may do
            tf.config.set_logical_device_configuration(whole, [tf.config.LogicalDeviceConfiguration()] * count)
    found = tf.config.list_logical_devices("CPU")
    if len(found) < count:
        raise SettingsError(
            f"TensorFlow computes already, with {len(found)} of {count} replicas: ask for them in a process of its own"
        )
    return list(found[:count])
