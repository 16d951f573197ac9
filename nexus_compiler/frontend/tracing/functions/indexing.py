"""Indexing: basic and integer-array keys are operations, boolean keys ask for their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing import recorder, shapes
from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.functions import elementwise, manipulation
from nexus_compiler.frontend.tracing.functions.operands import check, convert, fitting
from nexus_compiler.frontend.tracing.recording import array_of, known, literal, node_of, record

_INT64 = np.dtype("int64")


class KeyShapeError(shapes.ShapeError, IndexError):
    """A key does not fit the array's shape."""


def take(x: Array, indices: Array, /, *, axis: int | None = None) -> Array:
    """The elements at `indices` (one dimension) along an axis; negative ones count from the end."""
    if axis is None and x.ndim != 1:
        raise ValueError(f"take from shape {x.shape} needs an axis")
    if indices.ndim != 1:
        raise ValueError(f"take needs one dimension of indices, not shape {indices.shape}")
    along = shapes.axis(0 if axis is None else axis, x.ndim)
    return _taken(x, indices, along)


def _taken(x: Array, indices: Array, along: int) -> Array:
    check("take", indices.dtype, ("integral",))
    size = x.shape[along]
    shape = (*x.shape[:along], *indices.shape, *x.shape[along + 1 :])
    if not size and 0 not in shape:
        raise KeyShapeError(f"no element of an axis of size 0 can be taken from shape {x.shape}")
    flat = manipulation.reshape(_counted(indices, size), (indices.size,))
    lined = (*x.shape[:along], indices.size, *x.shape[along + 1 :])
    found = record("take", (node_of(x), node_of(flat)), lined, x.dtype, attrs=(along,))
    return manipulation.reshape(found, shape)


def _counted(indices: Array, size: int) -> Array:
    wide = array_of(convert(node_of(indices), _INT64))
    return elementwise.where(wide < 0, wide + size, wide) if indices.dtype.kind == "i" else wide


def take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    """For each place the element at its index along an axis."""
    check("take_along_axis", indices.dtype, ("integral",))
    along = shapes.axis(axis, x.ndim)
    if indices.ndim != x.ndim:
        raise KeyShapeError(f"indices of shape {indices.shape} do not fit shape {x.shape}")
    outer = list(fitting("take_along_axis", _without(x, along), _without(indices, along)))
    spread = manipulation.broadcast_to(x, (*outer[:along], x.shape[along], *outer[along:]))
    shape = (*outer[:along], indices.shape[along], *outer[along:])
    places = _counted(manipulation.broadcast_to(indices, shape), x.shape[along])
    return record("gather", (node_of(spread), node_of(places)), shape, x.dtype, attrs=(along,))


def _without(x: Array, along: int) -> tuple[int, ...]:
    return (*x.shape[:along], *x.shape[along + 1 :])


def expand_key(key: Any, shape: tuple[int, ...]) -> list[Any]:
    """A key as a list with one item for each axis, and None for each new one.

    Raises:
        KeyShapeError: it has too many items, or two ellipses.
    """
    items = list(key) if isinstance(key, tuple) else [key]
    used = sum(
        item.ndim if isinstance(item, Array) and item.dtype.kind == "b" else 1
        for item in items
        if item is not None and item is not Ellipsis
    )
    dots = [index for index, item in enumerate(items) if item is Ellipsis]
    if used > len(shape) or len(dots) > 1:
        raise KeyShapeError(f"a key of {used} items does not fit shape {shape}")
    rest: list[Any] = [slice(None)] * (len(shape) - used)
    if not dots:
        return [*items, *rest]
    return [*items[: dots[0]], *rest, *items[dots[0] + 1 :]]


def getitem(x: Array, key: Any) -> Array:
    """`x[key]`; see the module for what asks for values."""
    if isinstance(key, bool) or (isinstance(key, Array) and key.dtype.kind == "b"):
        return _masked(x, key)
    items = expand_key(key, x.shape)
    if any(isinstance(item, Array) and item.dtype.kind == "b" for item in items):
        raise KeyShapeError("a boolean array must be the only key")
    found, kept, axis = x, [], 0
    for item in items:
        if item is None:
            continue
        if isinstance(item, slice):
            found = _sliced(found, axis, item)
        elif not isinstance(item, Array) or not item.ndim:
            found = _sliced(found, axis, _one(item, found.shape[axis], axis))
        axis += 1
    arrays = [(i, item) for i, item in enumerate(i for i in items if i is not None)]
    arrays = [(i, item) for i, item in arrays if isinstance(item, Array) and item.ndim]
    if arrays:
        return _gathered(found, items, arrays)
    axis = 0
    for item in items:
        if item is None:
            kept.append(1)
            continue
        if isinstance(item, slice):
            kept.append(found.shape[axis])
        axis += 1
    return manipulation.reshape(found, kept)


def _one(item: Any, size: int, axis: int) -> slice:
    if isinstance(item, float) or not hasattr(item, "__index__"):
        raise IndexError(f"a {type(item).__name__} is no key for an array")
    index = item.__index__()
    if not -size <= index < size:
        raise KeyShapeError(f"index {index} is out of range for axis {axis} of size {size}")
    return slice(index % size, index % size + 1)


def _sliced(x: Array, axis: int, key: slice) -> Array:
    start, stop, step = key.indices(x.shape[axis])
    count = len(range(start, stop, step))
    if step == 1 and count == x.shape[axis]:
        return x
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if step < 0:
        if not count:
            return literal(np.empty(shape, x.dtype))
        x = manipulation.flip(x, axis=axis)
        last = x.shape[axis] - 1
        start, stop, step = last - start, last - start + (count - 1) * -step + 1, -step
    stop = min(stop, start + (count - 1) * step + 1) if count else start
    return record("slice", (node_of(x),), shape, x.dtype, attrs=(axis, step), sizes=(start, stop))


def _gathered(x: Array, items: Sequence[Any], arrays: list[tuple[int, Array]]) -> Array:
    """Integer arrays: flatten the axes that they index to one, then take from it."""
    if any(item is None for item in items):
        raise IndexError("new axes do not mix with integer arrays; use expand_dims")
    single = [i for i, item in enumerate(items) if not isinstance(item, slice)]
    if len(arrays) == 1 and len(single) == 1:
        axis, index = arrays[0]
        return _taken(x, index, axis)
    places = fitting("x[...]", *(array.shape for _, array in arrays))
    order = [*single, *(one for one in range(x.ndim) if one not in single)]
    sizes = tuple(x.shape[one] for one in single)
    flat: Array | None = None
    indices = dict(arrays)
    for one, size in zip(single, sizes):
        # Integers were cut out by a slice before: their axes are one long.
        own = _counted(indices[one], size) if one in indices else None
        flat = own if flat is None else flat * size if own is None else flat * size + own
    rest = tuple(x.shape[one] for one in order[len(single) :])
    lined = manipulation.reshape(manipulation.permute_dims(x, order), (shapes.count(sizes), *rest))
    assert flat is not None
    found = _taken(lined, manipulation.broadcast_to(flat, places), 0)
    adjacent = single == list(range(single[0], single[-1] + 1))
    if not adjacent or not single[0]:
        return found
    axes = range(len(places))
    return manipulation.moveaxis(found, tuple(axes), tuple(single[0] + one for one in axes))


def _masked(x: Array, key: Any) -> Array:
    mask = np.asarray(key) if isinstance(key, bool) else recorder.force(key, "a boolean key")
    if x.shape[: mask.ndim] != mask.shape:
        raise KeyShapeError(f"a mask of shape {mask.shape} does not fit shape {x.shape}")
    rest = x.shape[mask.ndim :]
    lined = manipulation.reshape(x, (mask.size, *rest))
    return take(lined, known(np.flatnonzero(mask)), axis=0)
