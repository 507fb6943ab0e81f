"""Rules and servers of TensorFlow Federated behind our own types; they run in .venv-tff alone."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import DEADLINE, PROGRAM, TOPICS, World, weights, world
from processes import alive, descendants, until

from fedfleet.cloud.aggregator import Aggregator
from fedfleet.cloud.federation import Federation
from fedfleet.cloud.settings import Rounds
from fedfleet.cloud.strategies import Strategy, strategy
from fedfleet.cloud.tff.installed import PACKAGE
from fedfleet.cloud.tff.stepping import STARTS, end, shared
from fedfleet.wire.errors import SettingsError, StoreError

pytestmark = pytest.mark.skipif(
    find_spec(PACKAGE) is None, reason="TensorFlow Federated is in .venv-tff alone: make test-tff"
)
P = 5
UPDATES = [np.arange(P, dtype=np.float32) * scale for scale in (1, -2, 0.5)]
EXAMPLES = [10, 20, 30]
MINE = """
import tensorflow_federated as tff

def build(norm=1.0):
    return tff.aggregators.clipping_factory(norm, tff.aggregators.MeanFactory())

def none(): return 3
def broken(): return 1 / 0
def sampled(): return tff.aggregators.UnweightedReservoirSamplingFactory(2)
"""


@pytest.fixture(scope="module", autouse=True)
def process() -> Iterator[Any]:
    """One process for all tests here: to load TFF takes seconds."""
    kept = shared()
    yield kept
    end()


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir("/")
    return tmp_path


def combined(rule: Strategy, moments: Any = None) -> tuple[Any, Any]:
    """What `rule` makes of UPDATES at rate 1, and its moments."""
    found = rule.aggregate(P)
    for update, examples in zip(UPDATES, EXAMPLES):
        found.add(update, examples)
    return rule.step(np.zeros(P, np.float32), found, rule.moments(P) if moments is None else moments)


def test_a_mean_of_tff_is_our_mean() -> None:
    after, moments = combined(strategy("tff:MeanFactory"))
    np.testing.assert_allclose(after, np.average(UPDATES, axis=0, weights=EXAMPLES), rtol=1e-6, atol=1e-7)
    assert moments.shape == (0, P)
    np.testing.assert_allclose(combined(strategy("tff:UnweightedMeanFactory"))[0], np.mean(UPDATES, axis=0), rtol=1e-6)


def test_the_order_of_updates_and_shards_do_not_matter() -> None:
    rule = strategy("tff:MeanFactory")
    one, two, rest = (rule.aggregate(P) for _ in range(3))
    for index in (0, 1, 2):
        one.add(UPDATES[index], EXAMPLES[index])
    two.add(UPDATES[2], EXAMPLES[2])
    for index in (1, 0):
        rest.add(UPDATES[index], EXAMPLES[index])
    two.merge(rest)
    assert one.value().tobytes() == two.value().tobytes()


def test_clipping_of_a_file_of_mine_is_ours(mine: Path) -> None:
    """Our own clip rule is an independent reference."""
    theirs, ours = strategy("tff:mine.py:build(norm=2.5)", mine), strategy("clip:2.5")
    np.testing.assert_allclose(combined(theirs)[0], combined(ours)[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(combined(strategy("tff:mine.py:build", mine))[0], combined(ours)[0])


def test_an_adaptive_norm_goes_on_from_round_to_round() -> None:
    """Andrew et al. 2021, algorithm 1, with TFF's settings: it begins at norm 1, and is led to quantile 0.8 at rate 0.2."""
    rule = strategy("tff:robust_aggregator(zeroing=False)")
    norms, wanted = [float(np.linalg.norm(update)) for update in UPDATES], 1.0
    moments = rule.moments(P)
    for _ in range(3):
        shorter = [update * min(1, wanted / norm) for update, norm in zip(UPDATES, norms)]
        after, moments = combined(rule, moments)
        np.testing.assert_allclose(after, np.average(shorter, axis=0, weights=EXAMPLES), rtol=1e-5, atol=1e-6)
        below = np.mean([norm <= wanted for norm in norms])
        wanted *= np.exp(-0.2 * (below - 0.8))
        assert np.isclose(moments, wanted, rtol=1e-5).any()
    assert wanted > 1.5


def test_noise_is_of_the_size_that_was_asked_for() -> None:
    named = "tff:DifferentiallyPrivateFactory.gaussian_fixed(noise_multiplier=0.5,clients_per_round=3.0,clip=100.0)"
    after, _ = combined(strategy(named))
    noise = after - np.sum(UPDATES, axis=0) / 3
    assert 0.5 < np.std(noise) < 60  # 0.5 times the clip over three clients: 16.7
    assert not np.array_equal(after, combined(strategy(named))[0])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tff:NoFactory", "tff:NoFactory: there is no NoFactory in tff.aggregators or tff.learning"),
        ("tff:dp_aggregator", "dp_aggregator: missing a required argument: 'noise_multiplier'; write tff:dp_aggregator"),
        ("tff:MeanFactory(speed=3)", "MeanFactory: got an unexpected keyword argument 'speed'"),
        ("tff:SumFactory.create", "SumFactory.create: missing a required argument"),
        ("tff:ClientWeighting(value=1)", "there is no|gives ClientWeighting; a rule is made of an aggregation factory"),
        ("tff:secure_aggregator", "secure_aggregator takes secure sums, which TFF cannot run on one machine"),
        ("tff:HadamardTransformFactory(inner_agg_factory=3)", "HadamardTransformFactory does not take that|does not take weights"),
        (
            "tff:DifferentiallyPrivateFactory.gaussian_fixed(noise_multiplier=1e30,clients_per_round=1.0,clip=1e30)",
            "gaussian_fixed makes numbers that are not finite; ask for less noise",
        ),
        ("tff:mine.py:sampled", "sampled makes float32.*of weights, float32.5.; take one that keeps them"),
        ("tff:mine.py:none", "none gives int; a rule is made of an aggregation factory"),
        ("tff:mine.py:broken", "mine.py:8: ZeroDivisionError: division by zero"),
        ("tff:mine.py:nothing", "has no function 'nothing'; define def nothing.. that returns a TFF aggregation factory"),
        ("tff:mine.py:build(size=3)", "TypeError: .*unexpected keyword argument 'size'"),
        ("tff:other.py:build", "other.py: no such file"),
        (
            "tff:DifferentiallyPrivateFactory.tree_aggregation(noise_multiplier=0.1,clients_per_round=3.0,l2_norm_clip=1.0,record_specs=1)",
            "tree_aggregation",
        ),
    ],
)  # fmt: skip
def test_a_factory_that_does_not_fit_is_refused_before_a_round(name: str, reason: str, mine: Path) -> None:
    with pytest.raises(SettingsError, match=reason) as caught, world(strategy="fedavg") as found:
        play(found, strategy(name, mine), name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(name)


def play(found: World, rule: Strategy, name: str) -> None:
    """An aggregator with `rule`, which must say at once what is wrong, on a journal that has seen no round."""
    federation = Federation(PROGRAM, weights()[:P], rule, found.plan, found.rounds, name=name)
    Aggregator(federation, TOPICS, found.hub.connect(), found.journal, lambda: 0.0)
    raise AssertionError("it began")


def adam(rate: float, ways: Any, *, decay: float = 0.0) -> Any:
    """Kingma and Ba 2015, algorithm 1, epsilon beside the root; `decay` is decoupled."""
    w, m, v = np.zeros(P), np.zeros(P), np.zeros(P)
    for t, way in enumerate(ways, 1):
        m, v = 0.9 * m - 0.1 * way, 0.999 * v + 0.001 * way**2
        w = w - rate * (np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7) + decay * w)
    return w


def yogi(rate: float, ways: Any) -> Any:
    w, m, v = np.zeros(P), np.zeros(P), np.full(P, 1e-6)
    for t, way in enumerate(ways, 1):
        m, v = 0.9 * m - 0.1 * way, v + 0.001 * np.sign(way**2 - v) * way**2
        w = w - rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-3)
    return w


def adagrad(rate: float, ways: Any) -> Any:
    w, v = np.zeros(P), np.full(P, 0.1)
    for way in ways:
        v = v + way**2
        w = w + rate * way / np.sqrt(v + 1e-7)
    return w


def rmsprop(rate: float, ways: Any) -> Any:
    w, v = np.zeros(P), np.zeros(P)
    for way in ways:
        v = 0.9 * v + 0.1 * way**2
        w = w + rate * way / np.sqrt(v + 1e-7)
    return w


REFERENCES: dict[str, Callable[[float, Any], Any]] = {
    "tff.sgdm": lambda rate, ways: rate * np.sum(ways, axis=0),
    "tff.adagrad": adagrad,
    "tff.adam": adam,
    "tff.adamw": lambda rate, ways: adam(rate, ways, decay=0.004),
    "tff.rmsprop": rmsprop,
    "tff.yogi": yogi,
}


@pytest.mark.parametrize("name", STARTS)
def test_a_server_of_tff_steps_as_its_paper_with_its_state_in_our_moments(name: str) -> None:
    server = strategy(f"{name}:0.25").server
    ways = np.random.default_rng(3).normal(size=(6, P))
    weights, moments = np.zeros(P, np.float32), server.moments(P)
    for way in ways:
        weights, moments = server.step(weights, way, moments)
        assert weights.dtype == np.float32
        assert moments.shape == server.moments(P).shape
    np.testing.assert_allclose(weights, REFERENCES[name](0.25, ways), rtol=2e-5, atol=1e-6)


def test_all_of_tffs_optimizers_are_here_but_for_one_whose_state_is_no_rows() -> None:
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    page = Path(spec.origin).parent / "python" / "learning" / "optimizers" / "__init__.py"
    names = {
        alias.name
        for node in ast.walk(ast.parse(page.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    built = {f"tff.{name.removeprefix('build_')}" for name in names if name.startswith("build_")}
    assert built - {"tff.adafactor"} == set(STARTS)


@pytest.mark.parametrize("name", ["tff:robust_aggregator+tff.adam", "tff:MeanFactory+fedyogi", "median+tff.yogi:0.1"])
def test_a_federation_that_is_killed_goes_on_to_the_same_bits(name: str) -> None:
    rounds = Rounds(total=3, devices=3, deadline=DEADLINE)
    with world(strategy=name, rounds=rounds) as whole:
        wanted = whole.play()
    with world(strategy=name, rounds=rounds) as found:
        for number in (1, 2, 3):
            found.until(number)
            for actor in (3, 0, 1, 0):
                found.act(actor)
            found.cloud_dies()
            if number == 2:
                end()  # and with the aggregator its process
            found.cloud_starts()
        assert found.play() == wanted


def test_a_journal_of_another_factory_is_refused() -> None:
    with world(strategy="tff:robust_aggregator", rounds=Rounds(total=3, devices=3, deadline=DEADLINE)) as found:
        found.until(2)
        found.cloud_dies()
        found.strategy = "tff:robust_aggregator(zeroing=False)"
        with pytest.raises(StoreError, match="written with strategy tff:robust_aggregator; go on with that"):
            found.cloud_starts()


def test_the_aggregator_itself_never_has_tff_and_its_process_goes_with_it(process: Any) -> None:
    combined(strategy("tff:MeanFactory+tff.adam"))
    below = descendants(process.process)
    assert "worker_binary" in " ".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in below)
    assert PACKAGE not in sys.modules
    pids = [process.process, *below]
    assert all(alive(pid) and os.getpgid(pid) == process.process for pid in pids)
    end()
    assert until(lambda: not any(map(alive, pids)))
