"""TensorFlow's `custom_gradient` with a type: a function that returns its value and its gradient's function."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record

Graded = Callable[..., tuple[Any, Any]]


def custom_gradient(function: Graded) -> Callable[..., Any]:
    """The function's value alone; where a tape listens, with the gradient that comes with it."""
    graded = tf.custom_gradient(function)

    @wraps(function)
    def apply(*tensors: Any) -> Any:
        # TensorFlow takes a millisecond to note a gradient down: programs that only look need not wait for thousands
        return graded(*tensors) if record.could_possibly_record() else function(*tensors)[0]

    return apply
