"""Kernels of the gradients of images whose channels are last."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx, topi

from nexus_compiler.passes.image_order import WEIGHT_GRADIENT
from nexus_compiler.passes.legalize import Legalization, default

_MOST_TAPS = 9  # of windows whose values are compared one by one where they are loaded
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
    """Of windows that lie apart, and of small ones that overlap; TVM's for others."""
    window, strides, padding = _figures(call)
    if str(call.attrs.layout) != "NHWC" or call.attrs.ceil_mode:
        return default("relax.grad.max_pool2d_backward")(builder, call)
    options: dict[str, Any] = {"primfunc_name_hint": "max_pool2d_backward"}
    apart = all(s >= k for s, k in zip(strides, window))
    if apart and not any(padding):
        return builder.call_te(largest_of_window, *call.args, window, strides, **options)
    if window[0] * window[1] > _MOST_TAPS:
        return default("relax.grad.max_pool2d_backward")(builder, call)
    return builder.call_te(largest_of_windows, *call.args, window, strides, padding, **options)


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


def largest_of_windows(
    adjoint: te.Tensor, x: te.Tensor, window: list[int], strides: list[int], padding: list[int]
) -> te.Tensor:
    """The adjoints of all windows of which a value is the first of the largest."""
    high, wide = x.shape[1:3]

    def seen(n: Any, y: Any, z: Any, channel: Any) -> Any:
        inside = tirx.all(y >= 0, y < high, z >= 0, z < wide)
        return tirx.if_then_else(inside, x(n, y, z, channel), tirx.min_value(x.dtype))

    def first(n: Any, row: Any, column: Any, channel: Any) -> Any:
        top, left = row * strides[0] - padding[0], column * strides[1] - padding[1]
        best, found = None, tirx.const(0, "int32")
        for tap in range(window[0] * window[1]):
            value = seen(n, top + tap // window[1], left + tap % window[1], channel)
            if best is None:
                best = value
                continue
            found = tirx.Select(value > best, tirx.const(tap, "int32"), found)
            best = tirx.max(best, value)
        return found

    places = te.compute(adjoint.shape, first, name="places")

    def element(n: Any, y: Any, z: Any, channel: Any) -> Any:
        def term(at: list[Any], taps: list[Any]) -> Any:
            own = (taps[0] * window[1] + taps[1]).astype("int32")
            hit = tirx.EQ(places(n, *at, channel), own)
            return tirx.Select(hit, adjoint(n, *at, channel), _zero(x))

        return _over_windows([y, z], adjoint.shape[1:3], window, strides, padding, term)

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


def largest_of_window(
    adjoint: te.Tensor, x: te.Tensor, window: list[int], strides: list[int]
) -> te.Tensor:
    """The adjoint of each window, at the first of its largest values; [n, y, x, channels]."""
    (high, wide), (down, across) = window, strides
    _, rows, columns, _ = adjoint.shape
    exact = [down, across] == window and [rows * down, columns * across] == list(x.shape[1:3])

    def element(n: Any, y: Any, z: Any, channel: Any) -> Any:
        row, column = tirx.floordiv(y, down), tirx.floordiv(z, across)
        top, left = row * down, column * across
        own = (y - top) * wide + (z - left)
        value, hits = x(n, y, z, channel), []
        for tap in range(high * wide):
            other = x(n, top + tap // wide, left + tap % wide, channel)
            first = tirx.And(own > tap, other == value)
            hits.append(tirx.Not(tirx.Or(other > value, first)))
        hit = tirx.Select(tirx.all(*hits), adjoint(n, row, column, channel), _zero(x))
        if exact:
            return hit
        inside = tirx.all(row < rows, column < columns, y - top < high, z - left < wide)
        return tirx.if_then_else(inside, hit, _zero(x))

    return te.compute(x.shape, element, name="back")


def _zero(x: te.Tensor) -> Any:
    return tirx.const(0, x.dtype)


KERNELS: dict[str, Legalization] = {
    "relax.grad.avg_pool2d_backward": avg_pool_backward,
    "relax.grad.max_pool2d_backward": max_pool_backward,
}
