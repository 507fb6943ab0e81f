"""`fedfleet model`, `backup` and `restore` at the terminal, beside an aggregator that holds the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run
from processes import environment

from fedfleet.cloud.federated import Federated
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.gate import judged, note
from fedfleet.cloud.journal import Journal
from fedfleet.cloud.registry import programs_of
from fedfleet.cloud.settings import Evaluation
from fedfleet.models.compiled import Compiled, Entry, load
from fedfleet.wire.messages import Blob, Plan, Task, Update
from fedfleet.wire.record import plain

COMPILED = Compiled(b"program", np.zeros(2, np.float32), (Entry("w", (2,), 0, 2),), "mean_squared_error", 4, (2,), (1,))


def weights(number: int) -> bytes:
    return np.full(2, number, "<f4").tobytes()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """The aggregator's, which goes on holding the folder `state`: five rounds, the fourth abandoned."""
    found = Journal(tmp_path / "state")
    COMPILED.save(programs_of(tmp_path / "state") / COMPILED.digest)
    for number in range(1, 6):
        task = Task(number, found.blobs.put(COMPILED.program), found.blobs.put(weights(number - 1)), Plan(epochs=2))
        found.open_round(task, "fedavg")
        if number == 4:
            found.abandon_round(number)
            continue
        found.count(*(Update(number, f"d{i}", 10 * i, "float32", b"delta") for i in (1, 2)))
        found.close_round(number, weights(number), b"moments %d" % number)
        found.score(number, {"loss": 0.5, "accuracy": (0.7, 0.9, 0.8, 0.0, 0.85)[number - 1]})
    yield found
    found.close()


@pytest.fixture
def here(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def read(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_list_and_show_beside_the_aggregator(here: Path) -> None:
    table = run("model", "list", "state").splitlines()
    assert len(table) == 4 + 4
    for number, row in zip((1, 2, 3, 5), table[3:]):
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        assert (cells[0], cells[2], cells[3]) == (str(number), "2", "30")
        assert cells[4].startswith("loss 0.5000, accuracy 0.")
        assert cells[5] == Blob.of(weights(number)).digest[:12] + (" (not kept)" if number == 1 else "")
    listed = read("model", "list", "state")
    assert [found["round"] for found in listed] == [1, 2, 3, 5]
    found = read("model", "show", "state", "3")
    assert found == listed[2]
    assert (found["contributors"], found["examples"], found["strategy"]) == ({"d1": 10, "d2": 20}, 30, "fedavg")
    assert (found["before"], found["weights"]) == tuple(Blob.of(weights(n)).digest for n in (2, 3))
    assert (found["program"], found["plan"]["epochs"], found["names"]) == (COMPILED.digest, 2, [])
    shown = run("model", "show", "state", "3")
    for text in ("d1 10, d2 20", "epochs 2", Blob.of(weights(3)).digest, found["ended"]):
        assert text in shown


def test_what_devices_made_of_a_model_is_shown_where_there_is_any(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "on devices" not in run("model", "list", "state")
    assert "gate" not in run("model", "list", "state")
    spread = {"loss": {"p5": 0.1, "p95": 0.9}, "accuracy": {"p5": 0.75, "p50": 0.8, "p95": 0.875}}
    judged_by = Federated(3, 2, 24, 1, {"loss": 0.5, "accuracy": 0.8125}, spread)
    record = RoundRecord(5, "closed", "", 2, 2, 0, 30, 0.5, 1, 1, 0.1, "w", 0.0, federated=judged_by)
    evaluation = Evaluation(every=1, gate="accuracy")
    note(here / "state", judged_by)
    said = judged(here / "state", record, evaluation, central=False).gate
    assert said == "model 3 promoted: accuracy 0.8125 on devices, the first"
    rows = [[cell.strip() for cell in row.strip("│").split("│")] for row in run("model", "list", "state").splitlines()]
    assert rows[1][7:] == ["on devices", "gate"]
    assert [row[6:] for row in rows[3:7]] == [
        ["", "", ""], ["", "", ""], ["promoted", "accuracy 0.8125 (0.7500 to 0.8750)", "promoted"], ["", "", ""]
    ]  # fmt: skip
    shown = " ".join(run("model", "show", "state", "promoted").split())
    assert "accuracy 0.8125 (p5 0.7500, p50 0.8000, p95 0.8750); 2 devices, 24 examples, 1 left out" in shown
    assert "promoted: accuracy 0.8125 on devices, the first" in shown
    found = read("model", "list", "state")
    assert [version["federated"] for version in found] == [None, None, plain(judged_by), None]
    assert read("model", "show", "state", "3")["gate"] == "promoted: accuracy 0.8125 on devices, the first"


def test_promote_beside_the_aggregator(here: Path) -> None:
    assert run("model", "promote", "state", "2") == "promoted: model 2, loss 0.5000, accuracy 0.9000\n"
    refusal = run("model", "promote", "state", "5")
    assert refusal.startswith(
        "refused: model 5 is worse than model 2, which is promoted: accuracy 0.8500 against 0.9000"
    )
    assert read("model", "promote", "state", "5", "--name", "plant-3")["names"] == ["plant-3"]
    assert read("model", "promote", "state", "5", "--force")["names"] == ["plant-3", "promoted"]
    assert read("model", "show", "state", "promoted")["round"] == 5
    assert "plant-3, promoted" in run("model", "list", "state")


def test_rollback_waits_for_the_aggregator_to_stop(here: Path, journal: Journal) -> None:
    assert run("model", "rollback", "state", "2").endswith(
        "state is in use; is another aggregator using this folder? stop it first"
    )
    journal.close()
    said = run("model", "rollback", "state", "2")
    assert said == "model 6 is model 2 again; the aggregator goes on from it at its next start\n"
    assert "6 = 2" in run("model", "list", "state")
    found = read("model", "rollback", "state", "5")
    assert (found["round"], found["origin"], found["weights"]) == (7, 5, Blob.of(weights(5)).digest)
    assert run("model", "rollback", "state", "1").startswith("refused: the model of round 1 is not kept")


def test_export_writes_a_program_folder(here: Path) -> None:
    assert run("model", "export", "state", "5", "--out", "out") == "exported: model 5 is in out\n"
    found = load("out")
    assert (found.program, found.weights.tolist()) == (COMPILED.program, [5.0, 5.0])
    assert read("model", "export", "state", "2", "--out", "out")["out"] == "out"
    assert load("out").weights.tolist() == [2.0, 2.0]
    assert "choose a version that is kept" in run("model", "export", "state", "1", "--out", "other")
    (here / "file").write_text("")
    assert run("model", "export", "state", "5", "--out", "file") == "refused: file is no folder; choose another one"


def test_backup_and_restore(here: Path) -> None:
    assert run("backup", "state", "file") == f"backed up: file, {(here / 'file').stat().st_size:,} bytes\n"
    assert run("restore", "file", "new") == "restored: new; start its aggregator, which goes on from there\n"
    assert run("model", "list", "new") == run("model", "list", "state")
    assert run("model", "export", "new", "5", "--out", "out") == "exported: model 5 is in out\n"
    assert "is there and not empty" in run("restore", "file", "state")


def fedfleet(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfleet.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("model", "list", "nowhere"), "nowhere/journal.sqlite: no such journal"),
        (("model", "show", "state", "9"), "no model '9'; kept are 2, 3, 5"),
        (("restore", "nothing", "new"), "nothing: No such file or directory"),
    ],
)
def test_mistakes_end_in_one_line_and_2(here: Path, arguments: tuple[str, ...], text: str) -> None:
    result = fedfleet(*arguments, cwd=here)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"fedfleet: {text}")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "verb", ["backup", "restore", "model", *(f"model {v}" for v in ["list", "show", "promote", "rollback", "export"])]
)
def test_help_has_examples(verb: str) -> None:
    shown = run(*verb.split(), "--help")
    assert "examples" in shown
    assert f"fedfleet {verb} " in shown


def test_no_tensorflow_is_loaded_for_it(here: Path) -> None:
    code = (
        "import sys; from fedfleet.cli.main import app\n"
        "app(['model', 'export', 'state', '5', '--out', 'out'], standalone_mode=False)\n"
        "print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=here, check=True)
    assert result.stdout.splitlines()[-1] == "False"
