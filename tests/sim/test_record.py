"""The run folder: what goes in comes out, and every moment of it can be read."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.cloud.federation import RoundRecord
from fedfleet.sim import record as module
from fedfleet.sim.record import Facts, Outcome, Recorder, Run, cells, columns, read
from fedfleet.wire.errors import StoreError
from fedfleet.wire.record import Mismatch

FACTS = Facts(
    id="run-1",
    data="digits",
    split="dirichlet:0.5",
    strategy="fedavg",
    engine="mqtt",
    broker="mosquitto",
    seed=7,
    devices=2,
    rounds=3,
    metric="accuracy",
    scale=1.0,
    unit="",
    parameters=1000,
    program="9f" * 32,
    program_bytes=12345,
    versions={"python": "3.11"},
    counts=((1, 2, 3), (4, 0, 6)),
    labels=("a", "b", "c"),
)
OUTCOME = Outcome(True, 3, "ab" * 32, 0.91, (0.5, 0.6), 0.95, 12.5, 55.0, 6_000, 7_000)

SIZES = st.integers(0, 2**53)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
RECORDS = st.builds(
    RoundRecord,
    round=SIZES,
    state=st.sampled_from(["closed", "abandoned"]),
    reason=st.text(),
    called=SIZES,
    reported=SIZES,
    late=SIZES,
    examples=SIZES,
    train_loss=FLOATS,
    bytes_up=SIZES,
    bytes_down=SIZES,
    seconds=st.floats(0, 1e9),
    weights=st.text("0123456789abcdef", min_size=64, max_size=64),
    device_rss_mib=st.floats(0, 1e6),
    scores=st.dictionaries(st.sampled_from(["loss", "accuracy", "rmse"]), FLOATS),
)


def ended(number: int, accuracy: float = 0.5) -> RoundRecord:
    return RoundRecord(
        number, "closed", "all reported", 2, 2, 0, 16, 0.7, 2000, 3000, 1.5, "cd" * 32, 50.0, {"accuracy": accuracy}
    )


def recorded(folder: Path, *records: RoundRecord) -> Recorder:
    recorder = Recorder(folder)
    recorder.facts(FACTS)
    for record in records:
        recorder.round(record)
    return recorder


def finite(record: RoundRecord) -> RoundRecord:
    """The record with infinities as NaN, which is what JSON's null is read as."""

    def fold(value: float) -> float:
        return value if math.isfinite(value) else math.nan

    scores = {key: fold(value) for key, value in record.scores.items()}
    return replace(record, train_loss=fold(record.train_loss), scores=scores)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(StoreError) as error:
        read(folder)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_whole_run_is_read_back(tmp_path: Path) -> None:
    recorded(tmp_path / "runs" / "x", ended(1), ended(2, 0.6)).outcome(OUTCOME)
    assert read(tmp_path / "runs" / "x") == Run(FACTS, [ended(1), ended(2, 0.6)], OUTCOME)
    assert read(tmp_path / "runs" / "x").finished


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDS, max_size=4))
def test_any_rounds_are_read_back(records: list[RoundRecord]) -> None:
    with TemporaryDirectory() as name:
        recorded(Path(name) / "run", *records)
        # repr, because NaN is not equal to itself
        assert repr(read(Path(name) / "run").rounds) == repr([finite(record) for record in records])


def test_files_are_standard_json_even_if_the_model_diverged(tmp_path: Path) -> None:
    lost = replace(ended(1, math.nan), train_loss=math.inf)
    recorded(tmp_path / "x", lost).outcome(replace(OUTCOME, federation=math.nan, alone=(0.5, math.nan)))
    for name in ("run.json", "metrics.jsonl", "outcome.json"):
        json.loads((tmp_path / "x" / name).read_text(), parse_constant=pytest.fail)
    outcome = read(tmp_path / "x").outcome
    assert outcome is not None
    assert (outcome.federation, outcome.alone) == (None, (0.5, None))


def test_a_run_cut_at_any_byte_is_readable(tmp_path: Path) -> None:
    path = recorded(tmp_path / "x", ended(1), ended(2)).folder / "metrics.jsonl"
    data = path.read_bytes()
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        found = read(tmp_path / "x")
        assert len(found.rounds) == data[:end].count(b"\n")
        assert not found.finished


def test_the_outcome_may_be_written_again(tmp_path: Path) -> None:
    recorder = recorded(tmp_path / "x")
    recorder.outcome(replace(OUTCOME, finished=False, alone=(), central=None))
    assert not read(tmp_path / "x").finished
    recorder.outcome(OUTCOME)
    assert read(tmp_path / "x").outcome == OUTCOME


def test_a_folder_that_holds_a_run_is_not_written_to(tmp_path: Path) -> None:
    recorded(tmp_path / "x", ended(1))
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    with pytest.raises(StoreError, match="holds a run already"):
        Recorder(tmp_path / "x")
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before


def test_what_a_newer_version_says_more_is_ignored(tmp_path: Path) -> None:
    recorded(tmp_path / "x")
    (tmp_path / "x" / "run.json").write_text(json.dumps(asdict(FACTS) | {"weather": "fine"}))
    (tmp_path / "x" / "metrics.jsonl").write_text(json.dumps(asdict(ended(1)) | {"wind": 3}) + "\n")
    assert read(tmp_path / "x") == Run(FACTS, [ended(1)], None)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "run.json", "is not the folder of a run")
    refused(tmp_path / "nowhere", "run.json is missing")
    (tmp_path / "run.json").mkdir()
    refused(tmp_path, "cannot be read")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff", '{"id": "x"}', "[]", "null"])
def test_damaged_facts_are_refused(tmp_path: Path, text: str) -> None:
    recorded(tmp_path / "x").folder.joinpath("run.json").write_bytes(text.encode("latin-1"))
    refused(tmp_path / "x", "run.json is damaged")


@pytest.mark.parametrize("line", ["", "{", "7", "{}", '{"scores": 3}', '{"scores": {"loss": "low"}}'])
def test_a_damaged_round_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = recorded(tmp_path / "x", ended(1)).folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line.encode() + b"\n" + path.read_bytes())
    refused(tmp_path / "x", "metrics.jsonl, line 2 is damaged")


def test_a_round_must_have_a_train_loss_even_if_null(tmp_path: Path) -> None:
    table = asdict(ended(1))
    path = recorded(tmp_path / "x").folder / "metrics.jsonl"
    path.write_text(json.dumps(table | {"train_loss": None}) + "\n")
    assert math.isnan(read(tmp_path / "x").rounds[0].train_loss)
    del table["train_loss"]
    path.write_text(json.dumps(table) + "\n")
    refused(tmp_path / "x", "train_loss is missing")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (recorded(tmp_path / "x").folder / "metrics.jsonl").open("wb") as file:
        file.truncate(module.MAX_BYTES + 1)
    refused(tmp_path / "x", "larger than 268 MB")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/x cannot be made"):
        Recorder(tmp_path / "file" / "x")
    recorder = recorded(tmp_path / "x")
    (tmp_path / "x" / "metrics.jsonl").mkdir()
    with pytest.raises(StoreError, match="jsonl cannot be written"):
        recorder.round(ended(1))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"metric": "auc"}, "metric"),
        ({"scale": 0.0}, "scale"),
        ({"devices": 3}, "one row a device"),
        ({"labels": ("a", "b")}, "one column a label"),
        ({"counts": ((1, 2, 3), (4, -1, 6))}, "negative"),
    ],
)
def test_facts_that_cannot_be_shown_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(Mismatch, match=word):
        replace(FACTS, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "metric", "unit", "text"),
    [
        (0.92408, "accuracy", "", "92.41 %"),
        (1.0, "accuracy", "", "100.00 %"),
        (18.4349, "rmse", "cycles", "18.43 cycles"),
        (0.0, "rmse", "", "0.00"),
        (0.00123, "rmse", "m", "0.00123 m"),
        (1.5e9, "rmse", "m", "1.5e+09 m"),
        (math.nan, "accuracy", "", "diverged"),
        (math.inf, "rmse", "m", "diverged"),
        (None, "rmse", "m", "—"),
    ],
)
def test_scores_in_words(value: float | None, metric: str, unit: str, text: str) -> None:
    assert module.score_text(value, metric, unit) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1_240_000, "1.24 MB"),
        (2_500_000_000, "2.50 GB"),
        (9.9e15, "9,900,000.00 GB"),
    ],
)
def test_sizes_in_words(count: float, text: str) -> None:
    assert module.size_text(count) == text


def test_a_round_as_a_row() -> None:
    row = dict(zip(columns("accuracy"), cells(ended(4, 0.875), "accuracy", ""), strict=True))
    assert row == {
        "round": "4",
        "called": "2",
        "reported": "2",
        "late": "0",
        "accuracy": "87.50 %",
        "train loss": "0.7000",
        "kB up": "2",
        "kB down": "3",
        "seconds": "1.5",
    }


def test_a_round_that_nobody_reported_in_has_no_loss() -> None:
    row = cells(replace(ended(4), reported=0, train_loss=0.0, scores={}), "accuracy", "")
    assert row[columns("accuracy").index("train loss")] == "—"
    assert row[columns("accuracy").index("accuracy")] == "—"
