"""Operators that move values and change none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dims, dtype
from nexus_runtime.errors import UnsupportedOperator

op = relax.op


def _reshaped(site: Site) -> Sequence[relax.Expr | None]:
    return [site.like(site.adjoint, site.args[0])]


def _literal(value: relax.Expr) -> list[int]:
    """The integers of a tuple of constants."""
    return [int(field.value) for field in value.fields]


def _strided_slice(site: Site) -> Sequence[relax.Expr | None]:
    """Zeros around the adjoint, and between its values where the stride is above 1."""
    x, listed = site.args[0], [_literal(part) for part in site.args[1:]]
    axes, begins, ends = listed[:3]
    strides = listed[3] if len(listed) > 3 else [1] * len(axes)
    shape, adjoint = dims(x), site.adjoint
    width = [0] * (2 * len(shape))
    for axis, begin, _end, stride in zip(axes, begins, ends, strides):
        length = shape[axis]
        if not isinstance(length, int) or stride < 1:
            raise UnsupportedOperator(
                f"the gradient of a slice needs a fixed length and a stride above 0: {site.call}"
            )
        start = min(max(begin + length if begin < 0 else begin, 0), length)
        count = dims(adjoint)[axis]
        if stride > 1:
            adjoint = _spaced(site, adjoint, axis, stride)
            count *= stride
        if start + count > length:  # the gap behind the last value
            count = length - start
            adjoint = site.put(op.strided_slice(adjoint, [axis], [0], [count]))
        width[2 * axis], width[2 * axis + 1] = start, length - start - count
    found = adjoint if not any(width) else site.put(op.nn.pad(adjoint, width, "constant"))
    return [found, *([None] * (len(site.args) - 1))]


def _spaced(site: Site, value: relax.Expr, axis: int, stride: int) -> relax.Var:
    """`stride - 1` zeros behind each value along `axis`."""
    shape = dims(value)
    thin = site.reshape(value, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
    width = [0] * (2 * len(shape) + 2)
    width[2 * axis + 3] = stride - 1
    wide = site.put(op.nn.pad(thin, width, "constant"))
    return site.reshape(wide, [*shape[:axis], shape[axis] * stride, *shape[axis + 1 :]])


def _pad(site: Site) -> Sequence[relax.Expr | None]:
    """The middle of the adjoint. Other modes than constant would have to add the borders."""
    x, attrs = site.args[0], site.attrs
    if str(attrs.pad_mode) != "constant":
        raise UnsupportedOperator(f"padding by '{attrs.pad_mode}' has no gradient")
    width, shape = [int(w) for w in attrs.pad_width], dims(x)
    axes = [axis for axis in range(len(shape)) if width[2 * axis] or width[2 * axis + 1]]
    if not axes:
        return [site.adjoint, *([None] * (len(site.args) - 1))]
    begins = [width[2 * axis] for axis in axes]
    ends = [width[2 * axis] + shape[axis] for axis in axes]
    found = site.put(op.strided_slice(site.adjoint, axes, begins, ends))
    return [found, *([None] * (len(site.args) - 1))]


def _stack(site: Site) -> Sequence[relax.Expr | None]:
    fields, axis = list(site.args[0].ty.fields), int(site.attrs.axis or 0)
    axis %= len(dims(site.result))
    shape = dims(site.result)
    one = [*shape[:axis], *shape[axis + 1 :]]
    if len(fields) == 1:
        return [relax.Tuple([site.reshape(site.adjoint, one)])]
    parts = site.put(op.split(site.adjoint, len(fields), axis=axis))
    pieces = [site.put(relax.TupleGetItem(parts, index)) for index in range(len(fields))]
    return [relax.Tuple([site.reshape(piece, one) for piece in pieces])]


def _flip(site: Site) -> Sequence[relax.Expr | None]:
    return [site.put(op.flip(site.adjoint, int(site.attrs.axis)))]


def _tile(site: Site) -> Sequence[relax.Expr | None]:
    """The sum over the copies."""
    x = site.args[0]
    repeats, shape = [int(count) for count in site.attrs.repeats], dims(x)
    rank = max(len(repeats), len(shape))
    repeats = [1] * (rank - len(repeats)) + repeats
    shape = [1] * (rank - len(shape)) + shape
    split: list[Any] = [number for pair in zip(repeats, shape) for number in pair]
    summed = site.put(op.sum(site.reshape(site.adjoint, split), axis=list(range(0, 2 * rank, 2))))
    return [site.like(summed, x)]


def _repeat(site: Site) -> Sequence[relax.Expr | None]:
    """The sum over neighbours."""
    x, count = site.args[0], int(site.attrs.repeats)
    if site.attrs.axis is None:
        flat = site.put(op.sum(site.reshape(site.adjoint, [-1, count]), axis=[1]))
        return [site.like(flat, x)]
    shape = dims(x)
    axis = int(site.attrs.axis) % len(shape)
    split = [*shape[: axis + 1], count, *shape[axis + 1 :]]
    return [site.put(op.sum(site.reshape(site.adjoint, split), axis=[axis + 1]))]


def _tril(site: Site) -> Sequence[relax.Expr | None]:
    return [site.put(op.tril(site.adjoint, site.args[1])), None]


def _cast(site: Site) -> Sequence[relax.Expr | None]:
    """Nothing flows through integers."""
    x = site.args[0]
    if not dtype(x).startswith(("float", "bfloat")) or "int" in dtype(site.result):
        return [None]
    return site.tvm()


RULES: dict[str, Rule] = {
    "astype": _cast,
    "flatten": _reshaped,
    "flip": _flip,
    "nn.batch_flatten": _reshaped,
    "nn.pad": _pad,
    "repeat": _repeat,
    "squeeze": _reshaped,
    "stack": _stack,
    "strided_slice": _strided_slice,
    "tile": _tile,
    "tril": _tril,
}
