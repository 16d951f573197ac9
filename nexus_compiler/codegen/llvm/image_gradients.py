"""Kernels of the gradients of images whose channels are last."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx, topi

from nexus_compiler.passes.image_order import WEIGHT_GRADIENT
from nexus_compiler.passes.legalize import Legalization, default

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
    """Of windows that lie apart; TVM's for others."""
    if str(call.attrs.layout) != "NHWC":
        return default("relax.grad.max_pool2d_backward")(builder, call)
    figures = [[int(n) for n in call.attrs[key]] for key in ("pool_size", "strides")]
    return builder.call_te(
        largest_of_window, *call.args, *figures, primfunc_name_hint="max_pool2d_backward"
    )


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


KERNELS: dict[str, Legalization] = {"relax.grad.max_pool2d_backward": max_pool_backward}
