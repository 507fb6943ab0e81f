"""TensorFlow's `custom_gradient` with a type: a function that returns its value and its gradient's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

custom_gradient: Callable[[Callable[..., tuple[Any, Any]]], Callable[..., Any]] = tf.custom_gradient
