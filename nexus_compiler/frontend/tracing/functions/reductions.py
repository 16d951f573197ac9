"""Statistical and utility functions, and those that search or sort along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing import dtypes, shapes
from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.functions import creation, elementwise
from nexus_compiler.frontend.tracing.functions.operands import check, convert
from nexus_compiler.frontend.tracing.recording import array_of, literal, node_of, record

Axes = int | Sequence[int] | None


def _reduce(
    name: str, x: Array, axis: Axes, keepdims: bool, dtype: np.dtype, empty: Any = None
) -> Array:
    """Record a reduction; over nothing it is `empty`."""
    node = node_of(x)
    over = shapes.axes(axis, node_rank := len(node.shape))
    shape = shapes.reduced(node.shape, over, keepdims)
    if x.size == 0 and 0 not in shape:
        if empty is None:
            raise ValueError(f"{name} of no elements: shape {x.shape}, axis {axis}")
        return creation.full(shape, empty, dtype=dtype)
    if not over or node_rank == 0:
        return (
            elementwise.positive(x)
            if dtype.kind != "b"
            else record("identity", (node,), node.shape, dtype)
        )
    return record(name, (node,), shape, dtype, attrs=(tuple(sorted(over)), keepdims))


def _summed(name: str, x: Array, axis: Axes, dtype: Any, keepdims: bool, empty: int) -> Array:
    node = node_of(x)
    check(name, node.dtype, ("numeric",))
    wanted = _accumulator(node.dtype) if dtype is None else dtypes.known(dtype)
    return _reduce(name, array_of(convert(node, wanted)), axis, keepdims, wanted, empty)


def _accumulator(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "i":
        return np.dtype("int64")
    return np.dtype("uint64") if dtype.kind == "u" else dtype


def sum(x: Array, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The sum; integers are summed in 64 bits."""
    return _summed("sum", x, axis, dtype, keepdims, 0)


def prod(x: Array, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The product; integers are multiplied in 64 bits."""
    return _summed("prod", x, axis, dtype, keepdims, 1)


def max(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """The greatest element; NaN where one is NaN."""
    check("max", x.dtype, ("numeric",))
    return _reduce("max", x, axis, keepdims, x.dtype)


def min(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """The least element; NaN where one is NaN."""
    check("min", x.dtype, ("numeric",))
    return _reduce("min", x, axis, keepdims, x.dtype)


def mean(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """The arithmetic mean."""
    check("mean", x.dtype, ("real floating",))
    return _reduce("mean", x, axis, keepdims, x.dtype, float("nan"))


def var(
    x: Array, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False
) -> Array:
    """The variance: squared distances from the mean over (elements - correction)."""
    check("var", x.dtype, ("real floating",))
    over = shapes.axes(axis, x.ndim)
    count = shapes.count(tuple(x.shape[one] for one in over))
    if count == 1:  # TVM takes x - x for 0, whatever x is
        zeros = creation.zeros_like(x)
        distance = elementwise.where(elementwise.isfinite(x), zeros, float("nan"))
    else:
        distance = x - mean(x, axis=over, keepdims=True)
    total = sum(distance * distance, axis=over, keepdims=keepdims)
    left = count - correction
    return total / left if left > 0 else total * float("nan")


def std(
    x: Array, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False
) -> Array:
    """The standard deviation: the root of `var`."""
    return elementwise.sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def all(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Whether every element is true, or not zero."""
    return _reduce("all", x, axis, keepdims, dtypes.BOOL, True)


def any(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Whether some element is true, or not zero."""
    return _reduce("any", x, axis, keepdims, dtypes.BOOL, False)


def count_nonzero(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """How many elements are not zero."""
    flags = array_of(convert(convert(node_of(x), dtypes.BOOL), np.dtype("int64")))
    return sum(flags, axis=axis, keepdims=keepdims)


def argmax(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """The position of the first greatest element."""
    return _position("argmax", x, axis, keepdims)


def argmin(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """The position of the first least element."""
    return _position("argmin", x, axis, keepdims)


def _position(name: str, x: Array, axis: int | None, keepdims: bool) -> Array:
    check(name, x.dtype, ("numeric",))
    over = shapes.axes(axis, x.ndim)
    shape = shapes.reduced(x.shape, over, keepdims)
    if x.size == 0 and 0 not in shape:
        raise ValueError(f"{name} of no elements: shape {x.shape}, axis {axis}")
    if not x.ndim:
        return creation.zeros((), dtype="int64")
    one = over[0] if axis is not None else None
    return record(name, (node_of(x),), shape, np.dtype("int64"), attrs=(one, keepdims))


def _scan(name: str, x: Array, axis: int | None, dtype: Any, include_initial: bool) -> Array:
    from nexus_compiler.frontend.tracing.functions import manipulation

    if axis is None and x.ndim > 1:
        raise ValueError(f"{name} of {x.ndim} dimensions needs an axis")
    if not x.ndim:
        raise ValueError(f"{name} needs at least one dimension")
    check(name, x.dtype, ("numeric",))
    wanted = _accumulator(x.dtype) if dtype is None else dtypes.known(dtype)
    along = shapes.axis(0 if axis is None else axis, x.ndim)
    node = convert(node_of(x), wanted)
    found = record(name, (node,), x.shape, wanted, attrs=(along,))
    if not include_initial:
        return found
    first = tuple(1 if one == along else size for one, size in enumerate(x.shape))
    start = creation.full(first, 0 if name == "cumulative_sum" else 1, dtype=wanted)
    return manipulation.concat((start, found), axis=along)


def cumulative_sum(
    x: Array, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Array:
    """Sums of the elements so far."""
    return _scan("cumulative_sum", x, axis, dtype, include_initial)


def cumulative_prod(
    x: Array, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Array:
    """Products of the elements so far."""
    return _scan("cumulative_prod", x, axis, dtype, include_initial)


def sort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The elements in order; NaN stands last."""
    from nexus_compiler.frontend.tracing.functions import indexing

    order = argsort(x, axis=axis, descending=descending, stable=stable)
    return indexing.take_along_axis(x, order, axis=axis)


def argsort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The positions of the elements in order; always stable."""
    check("argsort", x.dtype, ("numeric",))
    if not x.ndim:
        raise ValueError("an array without axes cannot be sorted")
    along = shapes.axis(axis, x.ndim)
    attrs = (along, descending)
    return record("argsort", (node_of(x),), x.shape, np.dtype("int64"), attrs=attrs)


def diff(
    x: Array,
    /,
    *,
    axis: int = -1,
    n: int = 1,
    prepend: Array | None = None,
    append: Array | None = None,
) -> Array:
    """Differences of neighbours, `n` times."""
    from nexus_compiler.frontend.tracing.functions import manipulation

    along = shapes.axis(axis, x.ndim)
    parts = [part for part in (prepend, x, append) if part is not None]
    found = manipulation.concat(parts, axis=along) if len(parts) > 1 else x
    before = (slice(None),) * along
    for _ in range(n):
        found = found[(*before, slice(1, None), ...)] - found[(*before, slice(None, -1), ...)]
    return found


def searchsorted(
    x1: Array, x2: Array, /, *, side: str = "left", sorter: Array | None = None
) -> Array:
    """Where the elements of `x2` go into the sorted `x1`, so that it stays sorted."""
    if x1.ndim != 1:
        raise ValueError(f"searchsorted takes one dimension, not shape {x1.shape}")
    if side not in ("left", "right"):
        raise ValueError(f"side is 'left' or 'right', not {side!r}")
    rows = x1 if sorter is None else x1[sorter]
    column = x2[..., None]
    below = rows < column if side == "left" else rows <= column
    if not x1.size:
        return literal(np.zeros(x2.shape, np.int64))
    return count_nonzero(below, axis=-1)
