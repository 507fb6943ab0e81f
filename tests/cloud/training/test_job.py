"""A job's batches follow from the job alone: every example once an epoch, in another order each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfleet.cloud.training.job import Job
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.examples import Examples


def job(count: int = 45, **given: Any) -> Job:
    x, y = np.arange(count, dtype=np.float32)[:, None], np.arange(count, dtype=np.int32) % 3
    return Job(lambda: None, Examples(x, y), Path("backup"), **({"batch": 16} | given))


def test_every_example_counts_once_an_epoch() -> None:
    found = job()
    assert found.steps == 3 and found.rows(0).shape == found.weight.shape == (3, 16)
    assert sorted(found.rows(0)[found.weight > 0]) == list(range(45))


def test_the_rows_of_an_epoch_are_its_own_and_always_the_same() -> None:
    assert (job().rows(4) == job(epochs=99).rows(4)).all()
    assert (job().rows(4) != job().rows(5)).any()
    assert (job().rows(4) != job(seed=1).rows(4)).any()


def test_weights_make_a_mean_of_what_is_there() -> None:
    weight = job().weight
    assert weight.dtype == np.float32
    assert (weight[:2] == 1).all()
    assert (weight[2] > 0).sum() == 13
    np.testing.assert_allclose(weight.mean(1), 1, rtol=1e-6)


def test_fillers_are_examples_too() -> None:
    """Layers that look at a whole batch, as BatchNormalization does, see no zeros that nobody has measured."""
    found = job(count=5)
    assert found.rows(0).shape == (1, 16)
    assert set(found.rows(0).ravel()) == set(range(5))
    assert (found.weight > 0).sum() == 5


@pytest.mark.parametrize(("parts", "share"), [(1, 16), (2, 8), (16, 1)])
def test_a_batch_is_shared_out(parts: int, share: int) -> None:
    assert job().share(parts) == share


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does() -> None:
    with pytest.raises(
        SettingsError, match="a batch of 16 does not divide by 3 replicas; take one that does, such as 15"
    ):
        job().share(3)
    with pytest.raises(SettingsError, match="by 32 workers; take one that does, such as 32"):
        job().share(32, "workers")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning rate must be above 0, not 0"),
        ({"learning_rate": float("nan")}, "learning rate must be above 0, not nan"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; take sgd, momentum, adam"),
    ],
)
def test_what_cannot_be_trained_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as error:
        job(**given)
    assert str(error.value) == says


def test_a_job_is_told_from_another_but_not_by_its_epochs() -> None:
    facts = job().facts()
    assert facts == job(epochs=99).facts()
    for other in (job(seed=1), job(batch=8), job(optimizer="adam"), job(loss="huber"), job(count=44)):
        assert other.facts() != facts


def test_data_are_named_by_their_bytes() -> None:
    found, same = job(), job()
    assert found.digest == same.digest and len(found.digest) == 64
    x, y = found.examples
    assert Job(lambda: None, Examples(x, y[::-1]), Path("b")).digest != found.digest
    assert Job(lambda: None, Examples(x.reshape(-1, 1, 1), y), Path("b")).digest != found.digest
