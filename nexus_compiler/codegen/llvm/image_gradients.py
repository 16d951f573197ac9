"""Kernels of the gradients of images whose channels are last."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx, topi

from nexus_compiler.codegen.llvm.keep_nan import is_number
from nexus_compiler.passes.image_order import WEIGHT_GRADIENT
from nexus_compiler.passes.legalize import Legalization, default

_MOST_TAPS = 4  # of windows that are not taken apart into rows
_LONGEST = 16  # taps of such a row
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_FUSES = {"op_pattern": 4}  # what TVM's fusion calls OutEWiseFusable


def is_weight_gradient(call: relax.Call) -> bool:
    """Whether a convolution is one of images with adjoints, as `passes/image_order` writes it."""
    return all(str(call.attrs[key]) == value for key, value in WEIGHT_GRADIENT.items())


def emit_weight_gradient(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """The kernel of such a convolution."""
    figures = [[int(n) for n in call.attrs[key]] for key in ("dilation", "padding", "strides")]
    window = [int(n) for n in list(call.ty.shape)[:2]]
    return builder.call_te(
        weight_gradient,
        *call.args,
        window,
        *figures,
        primfunc_name_hint="conv2d_by_weight",
        primfunc_attrs=_FUSES,
    )


def weight_gradient(
    x: te.Tensor,
    adjoint: te.Tensor,
    window: list[int],
    strides: list[int],
    padding: list[int],
    dilation: list[int],
) -> te.Tensor:
    """[height, width, channels, filters] of a window over x[n, y, x, channels].

    The sum over all pixels of adjoint[n, y, x, filters] times what the window saw there.
    """
    if any(padding):
        top, left, bottom, right = padding
        x = topi.nn.pad(x, [0, top, left, 0], [0, bottom, right, 0], name="padded")
    samples, high, wide, filters = adjoint.shape
    n, v, u = (
        te.reduce_axis((0, size), name) for size, name in ((samples, "n"), (high, "v"), (wide, "u"))
    )

    def element(y: Any, z: Any, channel: Any, column: Any) -> Any:
        seen = [v * strides[0] + y * dilation[0], u * strides[1] + z * dilation[1]]
        return te.sum(x(n, *seen, channel) * adjoint(n, v, u, column), axis=[n, v, u])

    return te.compute((*window, x.shape[3], filters), element, name="by_weight")


def max_pool_backward(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Of windows over images of known size; TVM's for others."""
    window, strides, padding = _figures(call)
    first = str(call.attrs.layout) == "NCHW"
    sizes = [_sizes(operand, first) for operand in call.args]
    plain = all(int(d) == 1 for d in call.attrs.dilation) and max(window) <= _LONGEST
    if not plain or not all(sizes) or not (first or str(call.attrs.layout) == "NHWC"):
        return default("relax.grad.max_pool2d_backward")(builder, call)
    # What is rounded up ends behind the image: that is more padding.
    ends = [(n - 1) * s + k for n, s, k in zip(sizes[0], strides, window)]
    padding = padding[:2] + [e - n - p for e, n, p in zip(ends, sizes[1], padding)]
    make = largest_of_windows if window[0] * window[1] <= _MOST_TAPS else largest_by_rows
    operands = [_turned(builder, operand, _TO_LAST) if first else operand for operand in call.args]
    # A transposition that was fused with it would scatter its lanes.
    options: dict[str, Any] = {"primfunc_name_hint": "max_pool2d_backward"}
    options["primfunc_attrs"] = _FUSES
    made = builder.call_te(make, *operands, window, strides, padding, **options)
    return _turned(builder, builder.emit(made), _TO_FIRST, last=True) if first else made


def _sizes(image: relax.Expr, first: bool) -> list[int]:
    """Height and width; nothing where they are open."""
    shape = list(image.ty.shape)[2:4] if first else list(image.ty.shape)[1:3]
    known = all(isinstance(size, tirx.IntImm) for size in shape)
    return [int(size) for size in shape] if known else []


def _turned(
    builder: relax.BlockBuilder, image: relax.Expr, axes: Sequence[int], *, last: bool = False
) -> relax.Expr:
    made = builder.call_te(topi.transpose, image, list(axes), primfunc_name_hint="transpose")
    return made if last else builder.emit(made)


def avg_pool_backward(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Of windows in NHWC order; TVM's for others."""
    if str(call.attrs.layout) != "NHWC" or call.attrs.ceil_mode:
        return default("relax.grad.avg_pool2d_backward")(builder, call)
    return builder.call_te(
        shares_of_windows,
        *call.args,
        *_figures(call),
        bool(call.attrs.count_include_pad),
        primfunc_name_hint="avg_pool2d_backward",
    )


def _figures(call: relax.Call) -> list[list[int]]:
    return [[int(n) for n in call.attrs[key]] for key in ("pool_size", "strides", "padding")]


def _over_windows(
    place: Sequence[Any],
    counts: Sequence[Any],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    term: Callable[[list[Any], list[Any]], Any],
) -> Any:
    """The sum over all windows that see the pixel at `place`: of term(window, tap in it)."""
    spots = [p + before for p, before in zip(place, padding)]
    total: Any = None
    for steps in itertools.product(*(range(-(-k // s)) for k, s in zip(window, strides))):
        at = [tirx.floordiv(p, s) - d for p, s, d in zip(spots, strides, steps)]
        taps = [tirx.floormod(p, s) + d * s for p, s, d in zip(spots, strides, steps)]
        seen = [
            tirx.all(i >= 0, i < count, tap < size)
            for i, count, tap, size in zip(at, counts, taps, window)
        ]
        value = term(at, taps)
        one = tirx.if_then_else(tirx.all(*seen), value, tirx.const(0, str(value.ty)))
        total = one if total is None else total + one
    return total


Seen = Callable[[int], Any]
"""The value under one tap of a window."""


def _first_of_largest(seen: Seen, taps: int) -> tuple[Any, Any]:
    """Which of `taps` values is the first of the largest, or the last that is NaN; and the value.

    So chooses PyTorch.
    """
    best, found = seen(0), tirx.const(0, "int32")
    for tap in range(1, taps):
        value = seen(tap)
        own = tirx.const(tap, "int32")
        found = tirx.Select(value > best, own, tirx.Select(is_number(value), found, own))
        best = tirx.max(best, value)
    return found, best


def _padded(x: te.Tensor, padding: Sequence[int]) -> te.Tensor:
    """`x` with the least value around it.

    Conditions at each tap would be what takes longest, to compile and to run.
    """
    if max(padding) <= 0:
        return x
    top, left, *ends = padding
    # Windows may end before the image does.
    bottom, right = (max(end, 0) for end in ends)
    least = tirx.const(-float("inf"), x.dtype)
    return topi.nn.pad(x, [0, top, left, 0], [0, bottom, right, 0], least, name="padded")


def largest_of_windows(
    adjoint: te.Tensor, x: te.Tensor, window: list[int], strides: list[int], padding: list[int]
) -> te.Tensor:
    """The adjoints of all windows of which a value is the first of the largest."""
    wide = _padded(x, padding)

    def first(n: Any, row: Any, column: Any, channel: Any) -> Any:
        top, left = row * strides[0], column * strides[1]

        def seen(tap: int) -> Any:
            return wide(n, top + tap // window[1], left + tap % window[1], channel)

        return _first_of_largest(seen, window[0] * window[1])[0]

    places = te.compute(adjoint.shape, first, name="places")

    def element(n: Any, y: Any, z: Any, channel: Any) -> Any:
        def term(at: list[Any], taps: list[Any]) -> Any:
            own = (taps[0] * window[1] + taps[1]).astype("int32")
            hit = tirx.EQ(places(n, *at, channel), own)
            return tirx.Select(hit, adjoint(n, *at, channel), _zero(x))

        return _over_windows([y, z], adjoint.shape[1:3], window, strides, padding, term)

    return te.compute(x.shape, element, name="back")


def largest_by_rows(
    adjoint: te.Tensor, x: te.Tensor, window: list[int], strides: list[int], padding: list[int]
) -> te.Tensor:
    """The same in two steps, whose work grows with the sum of the sides of a window.

    The first of the largest of a window is the first of the largest of one of its rows.
    """
    wide = _padded(x, padding)
    samples, high, _, channels = wide.shape
    _, rows, columns, _ = adjoint.shape

    def in_row(part: int) -> Callable[..., Any]:
        def element(n: Any, y: Any, column: Any, channel: Any) -> Any:
            left = column * strides[1]
            seen = lambda tap: wide(n, y, left + tap, channel)  # noqa: E731
            return _first_of_largest(seen, window[1])[part]

        return element

    strip = (samples, high, columns, channels)
    steps = te.compute(strip, in_row(0), name="steps")
    best = te.compute(strip, in_row(1), name="best")

    def row_of(n: Any, row: Any, column: Any, channel: Any) -> Any:
        top = row * strides[0]
        seen = lambda tap: best(n, top + tap, column, channel)  # noqa: E731
        return _first_of_largest(seen, window[0])[0]

    lines = te.compute(adjoint.shape, row_of, name="lines")

    def by_row(n: Any, y: Any, column: Any, channel: Any) -> Any:
        def term(at: list[Any], taps: list[Any]) -> Any:
            hit = tirx.EQ(lines(n, at[0], column, channel), taps[0].astype("int32"))
            return tirx.Select(hit, adjoint(n, at[0], column, channel), _zero(x))

        return _over_windows([y], [rows], window[:1], strides[:1], [0], term)

    handed = te.compute(strip, by_row, name="handed")

    def element(n: Any, y: Any, z: Any, channel: Any) -> Any:
        def term(at: list[Any], taps: list[Any]) -> Any:
            line = y + padding[0]
            hit = tirx.EQ(steps(n, line, at[0], channel), taps[0].astype("int32"))
            return tirx.Select(hit, handed(n, line, at[0], channel), _zero(x))

        return _over_windows([z], [columns], window[1:], strides[1:], padding[1:], term)

    return te.compute(x.shape, element, name="back")


def shares_of_windows(
    adjoint: te.Tensor,
    x: te.Tensor,
    window: list[int],
    strides: list[int],
    padding: list[int],
    count_include_pad: bool,
) -> te.Tensor:
    """Of the adjoint of each window, its share for every pixel that the window sees."""
    sizes = list(x.shape[1:3])

    def count(at: list[Any]) -> Any:
        if count_include_pad or not any(padding):
            return tirx.const(window[0] * window[1], x.dtype)
        many: Any = 1
        for i, size, step, before, extent in zip(at, window, strides, padding, sizes):
            begin = i * step - before
            many = many * (tirx.min(begin + size, extent) - tirx.max(begin, 0))
        return tirx.max(many, 1).astype(x.dtype)

    def element(n: Any, y: Any, z: Any, channel: Any) -> Any:
        def term(at: list[Any], _: list[Any]) -> Any:
            return adjoint(n, *at, channel) / count(at)

        return _over_windows([y, z], adjoint.shape[1:3], window, strides, padding, term)

    return te.compute(x.shape, element, name="back")


def _zero(x: te.Tensor) -> Any:
    return tirx.const(0, x.dtype)


KERNELS: dict[str, Legalization] = {
    "relax.grad.avg_pool2d_backward": avg_pool_backward,
    "relax.grad.max_pool2d_backward": max_pool_backward,
}
