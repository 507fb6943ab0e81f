"""The aggregator's settings file: one line for each mistake, with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfleet.cloud.settings import Combine, Evaluation, Identity, Metrics, Rounds, load_aggregator
from fedfleet.wire.calling import Needs
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan

HEAD = 'fleet = "mill"\nmodel = "model"\n'


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "settings.toml").write_text(text)
    return tmp_path / "settings.toml"


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    found = load_aggregator(written(tmp_path, HEAD))
    assert (found.strategy, found.rounds, found.plan, found.evaluation) == ("fedavg", Rounds(), Plan(), Evaluation())
    assert found.metrics == Metrics("127.0.0.1", 0, "")
    assert found.combine == Combine(0)
    assert found.identity == Identity("")


def test_everything_can_be_set(tmp_path: Path) -> None:
    text = HEAD + 'strategy = "fedprox"\nseed = 4\n[rounds]\ntotal = 3\ndevices = 2\nquorum = 2\ndeadline = 5\n'
    text += '[metrics]\nhost = "0.0.0.0"\nport = 9464\ntensorboard = "events"\n'
    text += '[plan]\nepochs = 2\nlearning_rate = 1\nholdout = 0.2\n[evaluation]\ndata = "npz:held.npz"\nevery = 2\ngate = "loss"\ntolerance = 0.1\n[broker]\nhost = "b"\n'
    text += '[identity]\npki = "pki"\n'
    found = load_aggregator(written(tmp_path, text))
    assert found.rounds == Rounds(total=3, devices=2, quorum=2, deadline=5.0)
    assert found.plan == Plan(epochs=2, learning_rate=1.0, holdout=0.2)
    assert found.evaluation == Evaluation("npz:held.npz", 2, "loss", 0.1)
    assert found.metrics == Metrics("0.0.0.0", 9464, "events")
    assert (found.strategy, found.seed, found.broker.host) == ("fedprox", 4, "b")
    assert found.identity == Identity("pki")


def test_whom_rounds_call_can_be_set(tmp_path: Path) -> None:
    text = (
        HEAD
        + '[rounds]\ndevices = 3\nquorum = 3\ncohort = 10\nover = 1.5\ngrace = 2\ntags = ["camera"]\nmemory_mib = 512\n'
    )
    found = load_aggregator(written(tmp_path, text)).rounds
    assert found == Rounds(devices=3, quorum=3, cohort=10, over=1.5, grace=2.0, tags=("camera",), memory_mib=512)
    assert found.needs == Needs(("camera",), 512)
    assert Rounds().needs == Needs()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD + "stratgy = 1", "unknown setting stratgy; known here: fleet, model, state, strategy"),
        (HEAD + "[plan]\nepoch = 1", "unknown setting plan.epoch; known here: epochs, steps"),
        (HEAD + '[rounds]\ntotal = "20"', "rounds.total must be int, not str"),
        (HEAD + "[plan]\nlearning_rate = nan", "plan.learning_rate must be a finite number"),
        (HEAD + "[plan]\nepochs = 0", "plan: epochs or steps must be above 0"),
        (HEAD + "[rounds]\nshare = 1.5", "rounds: share must be above 0 and at most 1"),
        (HEAD + "[rounds]\nquorum = 0", "rounds: quorum must be at least 1"),
        (HEAD + "[combine]\nreplicas = -2", "combine: replicas must be a number of devices, -1 for all GPUs, or 0 for"),
        (HEAD + '[combine]\nreplicas = "all"', "combine.replicas must be int, not str"),
        (HEAD + "[metrics]\nport = 65536", "metrics: port must be 0 to 65535, 0 for none"),
        (HEAD + '[metrics]\nhost = ""', "metrics: host must not be empty"),
        (HEAD + "[rounds]\ncohort = -1", "rounds: cohort must be 0, for all that are called, or a number of updates"),
        (HEAD + "[rounds]\ncohort = 9\nshare = 0.1", "rounds: share and cohort both say how many are called: set one"),
        (HEAD + "[rounds]\ncohort = 4\nquorum = 5", "rounds: quorum must be at most cohort, at which a round closes"),
        (HEAD + "[rounds]\ncohort = 4\nover = 0.9", "rounds: over must be 1 to 100 times the cohort"),
        (HEAD + "[rounds]\nover = 2", "rounds: over and grace are of no use without cohort"),
        (HEAD + "[rounds]\ngrace = 5", "rounds: over and grace are of no use without cohort"),
        (HEAD + "[rounds]\ncohort = 4\ngrace = 600", "rounds: grace must be at least 0 seconds and below the deadline"),
        (HEAD + '[rounds]\ntags = ["A"]', "rounds: each of tags must be 1 to 36 characters of a-z, 0-9 and -"),
        (HEAD + "[rounds]\nmemory_mib = -1", "rounds: memory_mib must not be negative"),
        (HEAD + "[rounds]\nbuffer = -1", "rounds: buffer must be 0, for synchronous rounds, or a number of updates"),
        (HEAD + "[rounds]\nbuffer = 3\ncohort = 3", "rounds: cohort and buffer both say when a round is full: set one"),
        (HEAD + "[rounds]\nbuffer = 3\nshare = 0.5", "rounds: a buffer takes updates of all: leave out share"),
        (HEAD + "[rounds]\nbuffer = 3\nquorum = 4", "rounds: quorum must be at most buffer, at which a round closes"),
        (HEAD + "[rounds]\nbuffer = 3\ngrace = 4", "rounds: over and grace are of no use without cohort"),
        (HEAD + "[rounds]\nbuffer = 3\nstaleness = -1", "rounds: staleness must be 0, or a number of rounds"),
        (HEAD + "[rounds]\nstaleness = 1", "rounds: staleness is of no use without buffer"),
        (
            HEAD + 'strategy = "scaffold"\n[rounds]\nbuffer = 3\nstaleness = 1',
            "rounds.staleness: updates of earlier rounds go into a mean alone, not scaffold: choose one of fedavg, fed",
        ),
        (HEAD + 'strategy = "fedsgd"', "strategy: unknown strategy 'fedsgd'; known: fedavg, fedavgm, fedprox"),
        (HEAD + 'strategy = "trimmed:0.6"', "strategy: strategy 'trimmed:0.6': write it as trimmed:SHARE"),
        (
            HEAD + 'strategy = "median+scaffold"',
            "strategy: strategy 'median+scaffold': scaffold combines updates in its",
        ),
        (
            HEAD + 'strategy = "fednova"\n[plan]\nnesterov = true',
            "strategy: fednova does not go with nesterov: set it to fa",
        ),
        (HEAD + '[plan]\ncodec = "zip"', "plan.codec: unknown codec 'zip'; known: float32"),
        (
            HEAD + "[rounds]\nquorum = 2",
            "rounds.quorum takes 2 updates, and a round calls about 1 (rounds.devices 1); raise rounds.devices to at least 2",
        ),
        (
            HEAD + "[rounds]\ndevices = 10\nshare = 0.3\nquorum = 4",
            "rounds.quorum takes 4 updates, and a round calls about 3 (rounds.devices 10, share 0.3); "
            "raise rounds.devices to at least 14",
        ),
        (
            HEAD + 'strategy = "krum:2+fedadam"\n[rounds]\ndevices = 6',
            "strategy takes 7 updates, and a round calls about 6 (rounds.devices 6); raise rounds.devices to at least 7",
        ),
        (HEAD + "[plan]\nholdout = 1", "plan: holdout must be at least 0 and below 1"),
        (HEAD + "[evaluation]\nevery = -1", "evaluation: every must not be negative"),
        (HEAD + '[evaluation]\nevery = 1\ngate = "f1"', "evaluation: gate must be one of accuracy, rmse, mae, loss"),
        (HEAD + '[evaluation]\ngate = "loss"', "evaluation: gate needs scores to go by: set data, or every"),
        (HEAD + "[evaluation]\ntolerance = -0.1", "evaluation: tolerance must not be negative"),
        ('fleet = "Mill"\nmodel = "m"', "fleet must be 1 to 36 characters of a-z, 0-9 and -"),
        ('fleet = "mill"', "model is missing"),
    ],
)
def test_mistakes_are_one_line_with_file_and_key(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_aggregator(written(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'settings.toml'}: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'strategy = "krum:2"\n[rounds]\ndevices = 7',
        "[rounds]\ndevices = 10\nshare = 0.3\nquorum = 3",
        'strategy = "trimmed:0.25"\n[rounds]\ndevices = 8\nshare = 0.5\nquorum = 4',
        'strategy = "fedadam"\n[rounds]\ndevices = 8\nquorum = 3\nbuffer = 3\nstaleness = 9',
        'strategy = "median"\n[rounds]\ndevices = 8\nbuffer = 3',
    ],
)
def test_what_can_just_be_had_together_is_taken(tmp_path: Path, text: str) -> None:
    assert load_aggregator(written(tmp_path, HEAD + text)).rounds.devices >= 7
