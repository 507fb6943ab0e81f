"""A run as TensorBoard event files, without the tensorboard package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from fedfleet.cloud.federation import RoundRecord
from fedfleet.wire.errors import StoreError

PLUGIN = "scalars"
SCALAR = 1  # DATA_CLASS_SCALAR of TensorFlow's summary.proto


class Events:
    """Writes one event file with a scalar for each number of a round, or of an epoch; the step is its number."""

    def __init__(self, folder: Path) -> None:
        """Make `folder` and an event file in it. Raises StoreError."""
        self._folder = folder
        try:
            self._writer = tf.summary.create_file_writer(str(folder))
        except tf.errors.OpError as error:
            raise _refusal(folder, error) from None
        self._metadata = tf.compat.v1.SummaryMetadata(data_class=SCALAR)
        self._metadata.plugin_data.plugin_name = PLUGIN

    def round(self, record: RoundRecord) -> None:
        """Write the numbers of one round and flush them. Raises StoreError."""
        self.write(record.round, scalars(record))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers by tag and flush them. Raises StoreError."""
        try:
            with self._writer.as_default(step=step):
                # Leaving the block flushes.
                for tag, value in numbers.items():
                    tf.summary.write(tag, tf.constant(value, tf.float32), metadata=self._metadata)
        except tf.errors.OpError as error:
            raise _refusal(self._folder, error) from None

    def close(self) -> None:
        """End the file; calling it again does nothing."""
        self._writer.close()


def scalars(record: RoundRecord) -> dict[str, float]:
    """The numbers of a round by tag; `train/loss` is left out where no device reported one."""
    numbers = {
        "devices/called": record.called,
        "devices/reported": record.reported,
        "devices/late": record.late,
        "devices/examples": record.examples,
        "devices/rss_mib": record.device_rss_mib,
        "bytes/up": record.bytes_up,
        "bytes/down": record.bytes_down,
        "round/seconds": record.seconds,
    }
    loss = {"train/loss": record.train_loss} if record.reported else {}
    return numbers | loss | {f"score/{name}": value for name, value in record.scores.items()} | _on_devices(record)


def _on_devices(record: RoundRecord) -> dict[str, float]:
    """What devices made of the model that the round began with; means over examples, percentiles across devices."""
    if record.federated is None:
        return {}
    found = {f"federated/{name}": value for name, value in record.federated.scores.items()}
    spread = record.federated.spread.items()
    return found | {f"federated/{name}_{part}": each for name, parts in spread for part, each in parts.items()}


def _refusal(folder: Path, error: tf.errors.OpError) -> StoreError:
    return StoreError(f"{folder} cannot take event files: {error.message.splitlines()[0]}")
