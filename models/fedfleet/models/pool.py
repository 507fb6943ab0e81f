"""Pooling with TensorFlow's own gradient: that of a maximum goes to the window's first one, also on ties.

LiteRT has no MaxPoolGrad. The taps of all windows are compared with the maximum one after another; what one tap takes,
the later ones do not get, and the last takes the rest: exact, and it needs neither comparisons nor casts.
The gradient of a mean is the mean of what all windows hand back, taken over the same windows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fedfleet.models.conv import Axis, dilate, pad
from fedfleet.models.gradient import custom_gradient
from fedfleet.models.shapes import repeat

Tensor = Any
LOWEST = -3.0e38


def max_pool(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Maxima of the windows of x [B,H,W,C] -> [B,H',W',C]."""

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        padding = [[0, 0], [rows.before, rows.after], [cols.before, cols.after], [0, 0]]
        full = pad(x, rows, cols, LOWEST)
        y = tf.nn.max_pool2d(full, [rows.kernel, cols.kernel], [rows.stride, cols.stride], "VALID")

        def gradient(g: Tensor) -> Tensor:
            shares = _shares(_taps(full, rows, cols), y, g)
            tiled = (rows.stride, cols.stride) == (rows.kernel, cols.kernel)
            spread = _tile(shares, full.shape, rows, cols) if tiled else _scatter(shares, rows, cols)
            return tf.slice(spread, [0, padding[1][0], padding[2][0], 0], x.shape) if full is not x else spread

        return y, gradient

    return apply(x)


def mean_pool(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Means of the windows of x [B,H,W,C] -> [B,H',W',C], padding not counted."""
    tiled = (rows.stride, cols.stride) == (rows.kernel, cols.kernel)
    if tiled and not (rows.before or rows.after or cols.before or cols.after):
        return _tiled_mean(x, rows, cols)

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        padding = "SAME" if rows.before or rows.after or cols.before or cols.after else "VALID"
        y = tf.nn.avg_pool2d(x, [rows.kernel, cols.kernel], [rows.stride, cols.stride], padding)
        factor = rows.kernel * cols.kernel / np.outer(_counts(rows), _counts(cols)).astype(np.float32)

        def gradient(g: Tensor) -> Tensor:
            wide = dilate(g * factor[None, :, :, None], rows, cols)
            return tf.nn.avg_pool2d(wide, [rows.kernel, cols.kernel], 1, "VALID")

        return y, gradient

    return apply(x)


def _tiled_mean(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Means of windows that neither overlap nor reach over the edge: the gradient is repeated."""

    @custom_gradient
    def apply(x: Tensor) -> tuple[Tensor, Any]:
        y = tf.nn.avg_pool2d(x, [rows.kernel, cols.kernel], [rows.stride, cols.stride], "VALID")

        def gradient(g: Tensor) -> Tensor:
            whole = repeat(repeat(g * (1.0 / (rows.kernel * cols.kernel)), 1, rows.kernel), 2, cols.kernel)
            below, beside = x.shape[1] - whole.shape[1], x.shape[2] - whole.shape[2]
            return tf.pad(whole, [[0, 0], [0, below], [0, beside], [0, 0]]) if below or beside else whole

        return y, gradient

    return apply(x)


def _counts(line: Axis) -> npt.NDArray[np.float32]:
    """How many real positions each window covers."""
    real = np.pad(np.ones(line.size, np.float32), (line.before, line.after))
    starts = range(0, line.out * line.stride, line.stride)
    return np.array([real[start : start + line.kernel].sum() for start in starts], np.float32)


def _taps(full: Tensor, rows: Axis, cols: Axis) -> list[Tensor]:
    """For each window position, row by row, its value in all windows: kernel-many tensors [B,H',W',C]."""
    if (rows.stride, cols.stride) == (rows.kernel, cols.kernel):
        return _blocks(full, rows, cols)
    high, wide = (rows.out - 1) * rows.stride + 1, (cols.out - 1) * cols.stride + 1
    return [
        full[:, i : i + high : rows.stride, j : j + wide : cols.stride]
        for i in range(rows.kernel)
        for j in range(cols.kernel)
    ]


def _blocks(full: Tensor, rows: Axis, cols: Axis) -> list[Tensor]:
    """The taps of windows that do not overlap, by slices without strides."""
    batch, _, _, depth = full.shape
    high, wide = rows.out * rows.kernel, cols.out * cols.kernel
    exact = full if full.shape[1:3] == (high, wide) else full[:, :high, :wide]
    grid = tf.reshape(exact, [batch * rows.out, rows.kernel, cols.out, cols.kernel * depth])
    shape = [batch, rows.out, cols.out, depth]
    return [
        tf.reshape(grid[:, i : i + 1, :, j * depth : (j + 1) * depth], shape)
        for i in range(rows.kernel)
        for j in range(cols.kernel)
    ]


def _shares(taps: list[Tensor], y: Tensor, g: Tensor) -> list[Tensor]:
    """What each tap gets of the gradient g, the first maximum all of it."""
    shares, rest = [], g
    for tap in taps[:-1]:
        left = rest * tf.sign(y - tap)
        shares.append(rest - left)
        rest = left
    return [*shares, rest]


def _tile(shares: list[Tensor], shape: Any, rows: Axis, cols: Axis) -> Tensor:
    """Lays the taps of windows that do not overlap side by side into a tensor of `shape`."""
    batch, height, width, depth = shape
    lines = [tf.concat(shares[i * cols.kernel : (i + 1) * cols.kernel], 3) for i in range(rows.kernel)]
    flat = [tf.reshape(line, [batch, rows.out, cols.out * cols.kernel * depth]) for line in lines]
    exact = tf.reshape(tf.concat(flat, 2), [batch, rows.out * rows.kernel, cols.out * cols.kernel, depth])
    below, beside = height - exact.shape[1], width - exact.shape[2]
    return tf.pad(exact, [[0, 0], [0, below], [0, beside], [0, 0]]) if below or beside else exact


def _scatter(shares: list[Tensor], rows: Axis, cols: Axis) -> Tensor:
    """Adds the taps of overlapping windows up where they lie in the padded input."""
    height, width = rows.size + rows.before + rows.after, cols.size + cols.before + cols.after
    total = None
    for n, share in enumerate(shares):
        i, j = divmod(n, cols.kernel)
        # a lone tap at (i, j) is a window of one position, shifted by as much padding
        line = Axis(height, 1, rows.stride, 1, -i, 0)
        column = Axis(width, 1, cols.stride, 1, -j, 0)
        placed = dilate(share, line, column)
        total = placed if total is None else total + placed
    return total
