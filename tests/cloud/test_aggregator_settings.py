"""The aggregator's settings file: one line for each mistake, with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfleet.cloud.settings import Evaluation, Metrics, Rounds, load_aggregator
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


def test_everything_can_be_set(tmp_path: Path) -> None:
    text = HEAD + 'strategy = "fedprox"\nseed = 4\n[rounds]\ntotal = 3\nquorum = 2\ndeadline = 5\n'
    text += '[metrics]\nhost = "0.0.0.0"\nport = 9464\ntensorboard = "events"\n'
    text += '[plan]\nepochs = 2\nlearning_rate = 1\nholdout = 0.2\n[evaluation]\ndata = "npz:held.npz"\nevery = 2\ngate = "loss"\ntolerance = 0.1\n[broker]\nhost = "b"\n'
    found = load_aggregator(written(tmp_path, text))
    assert found.rounds == Rounds(total=3, quorum=2, deadline=5.0)
    assert found.plan == Plan(epochs=2, learning_rate=1.0, holdout=0.2)
    assert found.evaluation == Evaluation("npz:held.npz", 2, "loss", 0.1)
    assert found.metrics == Metrics("0.0.0.0", 9464, "events")
    assert (found.strategy, found.seed, found.broker.host) == ("fedprox", 4, "b")


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
        (HEAD + "[metrics]\nport = 65536", "metrics: port must be 0 to 65535, 0 for none"),
        (HEAD + '[metrics]\nhost = ""', "metrics: host must not be empty"),
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
