"""Several versions of a model scored at once, one on each replica, by its Keras model's forward. TensorFlow is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfleet.cloud.combine.spread import Pool
from fedfleet.cloud.evaluate import evaluator, fits, measured, padded
from fedfleet.models import source
from fedfleet.models.compiled import Compiled
from fedfleet.models.scoring import summed
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import ModelError
from fedfleet.wire.examples import Examples

BATCH = 256
NEAR = 1e-3  # how far, as a share, two runtimes may be apart in the loss of one model


def scores(
    pool: Pool, model: str, compiled: Compiled, examples: Examples, versions: Iterable[Weights]
) -> Iterator[dict[str, float]]:
    """Yield loss and metric of each of `versions`, all weights of the program `compiled`, on all of `examples`.

    `model` is FILE.py:FUNCTION. Raises ModelError where that does not build the program's, DataError where the examples
    do not fit.
    """
    fits(compiled, examples)
    size = min(BATCH, len(examples.x))
    kernel, measure = _kernel(summed(source.build(model), compiled, size)), measured(compiled)

    def run(some: Examples, weights: Iterable[Weights]) -> Iterator[dict[str, float]]:
        for sums in pool.engine(kernel, weights, *_batches(some, size)):
            loss, metric = (sums / len(some.x)).tolist()
            yield {"loss": loss, measure.name: measure.of(metric)}

    few = Examples(examples.x[:size], examples.y[:size])
    ours, theirs = next(run(few, [compiled.weights]))["loss"], evaluator(compiled, few)(compiled.weights)["loss"]
    if not np.isclose(ours, theirs, rtol=NEAR, atol=NEAR, equal_nan=True):
        raise ModelError(
            f"{model} is not the model of program {compiled.digest[:12]}: with the same weights its loss is "
            f"{ours:.4f}, the program's {theirs:.4f}; name the file that was compiled"
        )
    yield from run(examples, versions)


def _kernel(sums: Callable[..., Any]) -> Callable[..., Any]:
    """What replicas do with one version and all batches: float64[2]."""

    def kernel(_: Any, weights: Any, *batches: Any) -> Any:
        each = tf.map_fn(lambda batch: sums(weights, *batch), batches, fn_output_signature=tf.float64)
        return tf.reduce_sum(each, 0)

    return kernel


def _batches(examples: Examples, size: int) -> list[NDArray[Any]]:
    """The arrays x, y and weight, [batches, size, ...] each; the last batch is filled up with what does not count."""
    found = [padded(examples, start, size) for start in range(0, len(examples.x), size)]
    return [np.stack([batch[name] for batch in found]) for name in ("x", "y", "weight")]
