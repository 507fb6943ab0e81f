"""Convolution as matrix products over shifted slices, with gradients from the same slices.

LiteRT runs a convolution with run-time weights on its slow path, but BATCH_MATMUL with run-time operands at full speed.
So a window is unrolled once: its columns serve the forward product and the weight gradient, and the input gradient is
the same product over the output's gradient with the taps in reverse order.
All tensors are NHWC, kernels HWIO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from fedfleet.models.gradient import custom_gradient

Tensor = Any
ROW_DEPTH = 24
NARROW = 8  # how many times fewer rows make it worth turning a matrix round


class Axis(NamedTuple):
    """How windows lie along one spatial axis: sizes, steps and zeros added before and after."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def span(self) -> int:
        """Input positions that one window reaches over."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def out(self) -> int:
        """Number of windows."""
        return (self.size + self.before + self.after - self.span) // self.stride + 1


def axis(size: int, kernel: int, stride: int, dilation: int, same: bool) -> Axis:
    """An axis with TensorFlow's padding rule: SAME puts the odd zero after."""
    span = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + span - size, 0) if same else 0
    return Axis(size, kernel, stride, dilation, total // 2, total - total // 2)


def product(a: Tensor, b: Tensor, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """The matrix product of a [M,K] and b [K,N] (or their transposes), in the one form that stays on the fast path."""
    if not transpose_b:
        return tf.matmul(a, b, transpose_a=transpose_a)
    if not transpose_a and b.shape[1] == 1:
        return a * tf.reshape(b, [1, -1])
    if not transpose_a and NARROW * a.shape[0] <= b.shape[0]:
        # the large matrix stays as it lies, and the small one and the result are turned round
        return tf.transpose(_matrices(b, tf.transpose(a)))
    return _matrices(a, b, transpose_a=transpose_a, transpose_b=True)


def _matrices(a: Tensor, b: Tensor, **turned: bool) -> Tensor:
    """The product as one of rank 3: at rank 2 a transposed b becomes FULLY_CONNECTED, slow with run-time weights."""
    y = tf.matmul(*(tf.reshape(t, [1, *t.shape]) for t in (a, b)), **turned)
    # TensorFlow 2.14's converter merges two reshapes of a single row, and then refuses its own product
    return y[0] if y.shape[1] == 1 else tf.reshape(y, y.shape[1:])


def conv2d(x: Tensor, kernel: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Correlation of x [B,H,W,I] with kernel [h,w,I,O] -> [B,H',W',O]."""

    @custom_gradient
    def apply(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        windows = _windows(x, rows, cols)

        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            return spread(g, kernel, rows, cols), _by_kernel(windows, g, kernel, rows, cols)

        return _correlate(windows, kernel, rows, cols), gradient

    return apply(x, kernel)


def transposed(x: Tensor, kernel: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """Transposed convolution of x [B,H',W',O] with kernel [h,w,I,O] -> [B,H,W,I]; the axes are those of the result."""

    @custom_gradient
    def apply(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(g: Tensor) -> tuple[Tensor, Tensor]:
            windows = _windows(g, rows, cols)
            return _correlate(windows, kernel, rows, cols), _by_kernel(windows, x, kernel, rows, cols)

        return spread(x, kernel, rows, cols), gradient

    return apply(x, kernel)


def _windows(x: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """What serves the product and the kernel's gradient: x padded and unrolled, along the width alone where it pays."""
    if _by_rows(rows, cols, x.shape[3]):
        return _across(pad(x, _still(x.shape[1]), cols), cols)
    return unroll(pad(x, rows, cols), rows, cols)


def _correlate(windows: Tensor, kernel: Tensor, rows: Axis, cols: Axis) -> Tensor:
    by_rows = _by_rows(rows, cols, kernel.shape[2])
    return _row_sum(windows, kernel, rows) if by_rows else tf.matmul(windows, _matrix(kernel))


def _by_kernel(windows: Tensor, g: Tensor, kernel: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """The kernel's gradient from the windows of the wide side and the narrow side g."""
    by_rows = _by_rows(rows, cols, kernel.shape[2])
    return tf.reshape(_row_weights(windows, g, rows) if by_rows else _weights(windows, g), kernel.shape)


def spread(g: Tensor, kernel: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """The gradient of `conv2d` by its input, from g [B,H',W',O], that of its output; a transposed convolution."""
    if tuple(kernel.shape[:2]) == (1, 1):
        wide = dilate(g, rows, cols)
        return tf.reshape(product(_matrix(wide), _matrix(kernel), transpose_b=True), [*wide.shape[:3], kernel.shape[2]])
    taps = tf.transpose(kernel, [0, 1, 3, 2])
    columns = unit(cols)
    if not _by_rows(unit(rows), columns, g.shape[3]):
        return tf.matmul(unroll(dilate(g, rows, cols), unit(rows), columns, backwards=True), _matrix(taps))
    lines = unit(rows)
    if rows.stride == 1:
        lines = Axis(rows.out, rows.kernel, 1, rows.dilation, rows.span - 1 - rows.before, rows.span - 1 - rows.after)
        rows = _still(rows.out)
    return _row_sum(_across(dilate(g, rows, cols), columns, backwards=True), taps, lines, backwards=True)


def footprint(x: Tensor, kernel: Tensor, rows: Axis, cols: Axis) -> int:
    """The bytes that `conv2d` makes of one example on its way."""
    if _by_rows(rows, cols, x.shape[3]):
        return 4 * int(x.shape[1]) * cols.out * int(max(cols.kernel * x.shape[3], rows.kernel * kernel.shape[3]))
    return 4 * rows.out * cols.out * rows.kernel * cols.kernel * int(x.shape[3])


def _by_rows(rows: Axis, cols: Axis, depth: int) -> bool:
    """Whether to unroll windows along one axis only: half the copying, if the product's inner size stays large."""
    return rows.stride == 1 and rows.kernel > 1 and cols.kernel * depth >= ROW_DEPTH


def _still(size: int) -> Axis:
    """An axis along which nothing is done."""
    return Axis(size, 1, 1, 1, 0, 0)


def _matrix(kernel: Tensor) -> Tensor:
    return tf.reshape(kernel, [-1, kernel.shape[3]])


def _weights(windows: Tensor, g: Tensor) -> Tensor:
    """The kernel's gradient [h*w*I,O] from windows [B,H',W',h*w*I] and g [B,H',W',O]."""
    return product(_matrix(windows), _matrix(g), transpose_a=True)


def _row_sum(wide: Tensor, kernel: Tensor, rows: Axis, backwards: bool = False) -> Tensor:
    """The convolution of wide [B,H,W',w*I] by one product for all of the kernel's rows, then shifted and summed.

    Padding comes after the product: rows of zeros would take part in it.
    """
    high, across, depth, features = kernel.shape
    stacked = tf.transpose(tf.reshape(kernel, [high, across * depth, features]), [1, 0, 2])
    each = tf.matmul(wide, tf.reshape(stacked, [across * depth, high * features]))
    each = pad(each, rows, _still(each.shape[2]))
    parts = [
        each[:, start : start + rows.out, :, i * features : (i + 1) * features]
        for i, start in enumerate(_taps(rows, backwards))
    ]
    return sum(parts[1:], parts[0])


def _row_weights(wide: Tensor, g: Tensor, rows: Axis) -> Tensor:
    """The kernel's gradient [h*w*I,O] from wide [B,H,W',w*I] and g, one product for each of the kernel's rows."""
    parts = []
    for start in _taps(rows, False):
        # only rows that a tap sees: those of the padding would add zeros
        first, last = max(0, rows.before - start), min(rows.out, rows.size + rows.before - start)
        seen = wide[:, first + start - rows.before : last + start - rows.before]
        empty = tf.zeros([wide.shape[3], g.shape[3]])
        parts.append(_weights(seen, g[:, first:last]) if first < last else empty)
    return tf.concat(parts, 0)


def pad(x: Tensor, rows: Axis, cols: Axis, value: float = 0.0) -> Tensor:
    """x [B,H,W,C] with the axes' padding, filled with `value`."""
    if not (rows.before or rows.after or cols.before or cols.after):
        return x
    return tf.pad(x, [[0, 0], [rows.before, rows.after], [cols.before, cols.after], [0, 0]], constant_values=value)


def unroll(x: Tensor, rows: Axis, cols: Axis, backwards: bool = False) -> Tensor:
    """Windows of a padded x [B,H,W,C] as [B,H',W',h*w*C]; `backwards` reverses the taps."""
    wide = _across(x, cols, backwards)
    return _join([_shift(wide, 1, i, rows) for i in _taps(rows, backwards)])


def positions(x: Tensor, rows: Axis, cols: Axis) -> list[Tensor]:
    """For each tap, row by row, what it sees of a padded x [B,H,W,C] in all windows: h*w tensors [B,H',W',C]."""
    high, wide = ((line.out - 1) * line.stride + 1 for line in (rows, cols))
    return [
        x[:, i : i + high : rows.stride, j : j + wide : cols.stride]
        for i in _taps(rows, False)
        for j in _taps(cols, False)
    ]


def _across(x: Tensor, cols: Axis, backwards: bool = False) -> Tensor:
    """Windows along the width alone: [B,H,W',w*C]."""
    return _join([_shift(x, 2, j, cols) for j in _taps(cols, backwards)])


def dilate(g: Tensor, rows: Axis, cols: Axis) -> Tensor:
    """g [B,H',W',C] with its strides' gaps as zeros, padded so that reversed taps over it cover the whole input."""
    batch, high, wide, depth = g.shape
    if cols.stride > 1:
        g = tf.reshape(tf.pad(g, [[0, 0], [0, 0], [0, 0], [0, (cols.stride - 1) * depth]]), [batch, high, -1, depth])
        wide *= cols.stride
    if rows.stride > 1:
        flat = tf.reshape(g, [batch, high, wide * depth])
        flat = tf.pad(flat, [[0, 0], [0, 0], [0, (rows.stride - 1) * wide * depth]])
        g = tf.reshape(flat, [batch, high * rows.stride, wide, depth])
    top, bottom = _margins(rows, g.shape[1])
    left, right = _margins(cols, g.shape[2])
    g = g[:, : g.shape[1] + min(bottom, 0), : g.shape[2] + min(right, 0)] if min(bottom, right) < 0 else g
    if not (top or left or max(bottom, right) > 0):
        return g
    return tf.pad(g, [[0, 0], [top, max(bottom, 0)], [left, max(right, 0)], [0, 0]])


def _margins(line: Axis, length: int) -> tuple[int, int]:
    """Zeros before and after (negative: cut) that bring a dilated gradient to size + span - 1."""
    before = line.span - 1 - line.before
    return before, line.size + line.span - 1 - before - length


def unit(line: Axis) -> Axis:
    """The axis of the input gradient: stride one over an already padded gradient, one output per input."""
    return Axis(line.size + line.span - 1, line.kernel, 1, line.dilation, 0, 0)


def _taps(line: Axis, backwards: bool) -> Sequence[int]:
    taps = range(0, line.span, line.dilation)
    return taps[::-1] if backwards else taps


def _shift(x: Tensor, along: int, start: int, line: Axis) -> Tensor:
    """Positions start, start + stride, ... of the axis `along`, one per window."""
    if line.span == 1 and line.stride == 1:
        return x
    where = [slice(None)] * 4
    where[along] = slice(start, start + (line.out - 1) * line.stride + 1, line.stride)
    return x[tuple(where)]


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, 3)
