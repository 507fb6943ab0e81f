"""Event files: what TensorBoard would read is what the rounds were."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from fedfleet.cloud.events import Events, scalars
from fedfleet.cloud.federation import RoundRecord
from fedfleet.wire.errors import StoreError


def ended(number: int, accuracy: float = 0.5) -> RoundRecord:
    scores = {"loss": 0.25, "accuracy": accuracy}
    return RoundRecord(number, "closed", "", 5, 4, 1, 640, 0.75, 2000, 3000, 1.5, "cd" * 32, 50.5, scores)


def events(folder: Path) -> list[Any]:
    """All events below `folder`, read as the records of protocol buffers that they are."""
    files = sorted(str(path) for path in folder.glob("events.out.tfevents.*"))
    return [tf.compat.v1.Event.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(files)]


def values(folder: Path) -> dict[tuple[int, str], float]:
    return {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in events(folder)
        for value in event.summary.value
    }


def test_every_number_of_every_round_is_read_back(tmp_path: Path) -> None:
    written = Events(tmp_path)
    rounds = [ended(1), ended(2, 0.625), ended(7, 0.875)]
    for record in rounds:
        written.round(record)
    written.close()
    assert values(tmp_path) == {(r.round, tag): value for r in rounds for tag, value in scalars(r).items()}


def test_tags_and_values() -> None:
    assert scalars(ended(1)) == {
        "devices/called": 5,
        "devices/reported": 4,
        "devices/late": 1,
        "devices/examples": 640,
        "devices/rss_mib": 50.5,
        "bytes/up": 2000,
        "bytes/down": 3000,
        "round/seconds": 1.5,
        "train/loss": 0.75,
        "score/loss": 0.25,
        "score/accuracy": 0.5,
    }


def test_values_are_marked_as_scalars(tmp_path: Path) -> None:
    written = Events(tmp_path)
    written.round(ended(1))
    written.close()
    found = [value.metadata for event in events(tmp_path) for value in event.summary.value]
    assert len(found) == 11
    assert {metadata.plugin_data.plugin_name for metadata in found} == {"scalars"}
    kinds = found[0].DESCRIPTOR.fields_by_name["data_class"].enum_type.values_by_number
    assert {kinds[metadata.data_class].name for metadata in found} == {"DATA_CLASS_SCALAR"}


def test_a_round_can_be_read_before_the_file_is_closed(tmp_path: Path) -> None:
    written = Events(tmp_path)
    written.round(ended(1))
    assert (1, "score/accuracy") in values(tmp_path)
    written.close()
    written.close()


def test_a_round_that_nobody_reported_in_has_no_loss(tmp_path: Path) -> None:
    assert "train/loss" not in scalars(replace(ended(1), reported=0))


def test_a_model_that_diverged_is_written_as_such(tmp_path: Path) -> None:
    written = Events(tmp_path)
    written.round(ended(1, math.nan))
    written.close()
    assert math.isnan(values(tmp_path)[1, "score/accuracy"])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot take event files") as error:
        Events(tmp_path / "file" / "x")
    assert "\n" not in str(error.value)
