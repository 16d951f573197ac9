"""Assignment to parts of an array: the array stands for a new value, nothing is overwritten."""

from __future__ import annotations

from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.functions import creation, elementwise, manipulation
from nexus_compiler.frontend.tracing.functions.indexing import expand_key, take
from nexus_compiler.frontend.tracing.functions.operands import convert, fitting
from nexus_compiler.frontend.tracing.recording import array_of, literal, node_of, record
from nexus_compiler.frontend.tracing.shapes import BroadcastError


def setitem(x: Array, key: Any, value: Any) -> None:
    """`x[key] = value` for a mask, or for integers, slices and an ellipsis.

    Other arrays that were made from `x` keep their values: there are no views.

    Raises:
        BroadcastError: the value does not broadcast to what is set.
        IndexError: the key holds integer arrays, which only reading takes.
    """
    if not isinstance(value, Array):
        value = creation.full((), value, dtype=x.dtype)
    elif (node := node_of(value)).dtype != x.dtype:
        value = array_of(convert(node, x.dtype))
    if isinstance(key, Array) and key.dtype.kind == "b":
        found = _masked(x, key, value)
    else:
        found = _sliced(x, key, value)
    x.become(found.node)


def _masked(x: Array, key: Array, value: Array) -> Array:
    if value.ndim:
        raise IndexError("a mask sets one value; for several use where")
    mask = manipulation.reshape(key, (*key.shape, *(1 for _ in x.shape[key.ndim :])))
    fitting("x[mask] = ...", x.shape, mask.shape)
    return elementwise.where(manipulation.broadcast_to(mask, x.shape), value, x)


def _sliced(x: Array, key: Any, value: Array) -> Array:
    items = [item for item in expand_key(key, x.shape) if item is not None]
    if any(isinstance(item, Array) and item.ndim for item in items):
        raise IndexError("integer arrays cannot be assigned to; use where or take")
    places = [_places(item, size) for item, size in zip(items, x.shape)]
    target = tuple(len(one) for one, item in zip(places, items) if isinstance(item, slice))
    if fitting("x[...] = ...", value.shape, target) != target:
        raise BroadcastError(f"x[...] = ...: shape {value.shape} does not fit {target}")
    if 0 in target:
        return elementwise.positive(x) if x.dtype.kind != "b" else elementwise.where(x, True, x)
    spread = manipulation.reshape(manipulation.broadcast_to(value, target), tuple(map(len, places)))
    mask: Array | None = None
    for axis, (place, size) in enumerate(zip(places, x.shape)):
        inside = np.zeros(size, bool)
        inside[place] = True
        source = np.zeros(size, np.int64)
        source[place] = np.arange(len(place))
        spread = take(spread, literal(source), axis=axis)
        line = literal(inside.reshape([-1 if one == axis else 1 for one in range(x.ndim)]))
        mask = line if mask is None else mask & line
    if mask is None:
        return record("identity", (node_of(value),), x.shape, x.dtype)
    return elementwise.where(mask, spread, x)


def _places(item: Any, size: int) -> np.ndarray:
    if isinstance(item, slice):
        return np.arange(size)[item]
    index = int(item.__index__())
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for an axis of size {size}")
    return np.asarray([index % size])
