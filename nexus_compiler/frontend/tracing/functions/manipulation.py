"""Manipulation functions: the same elements in another arrangement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nexus_compiler.frontend.tracing import dtypes, shapes
from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.functions.operands import convert, fitting
from nexus_compiler.frontend.tracing.nodes import Shape
from nexus_compiler.frontend.tracing.recording import array_of, literal, node_of, record
from nexus_compiler.frontend.tracing.shapes import BroadcastError


def _reshaped(x: Array, shape: Shape) -> Array:
    if x.shape == shape:
        return x
    return record("reshape", (node_of(x),), shape, x.dtype, sizes=shape)


def reshape(x: Array, /, shape: Sequence[int], *, copy: bool | None = None) -> Array:
    """The elements in the same order in another shape; one size may be -1."""
    sizes = [int(size) for size in shape]
    if sizes.count(-1) == 1:
        rest = shapes.count(tuple(size for size in sizes if size != -1))
        sizes[sizes.index(-1)] = x.size // rest if rest else 0
    if shapes.count(tuple(sizes)) != x.size or any(size < 0 for size in sizes):
        raise BroadcastError(f"reshape: shape {x.shape} cannot become {tuple(shape)}")
    return _reshaped(x, tuple(sizes))


def broadcast_to(x: Array, /, shape: Sequence[int]) -> Array:
    """`x` repeated along axes that are one long or missing."""
    wanted = tuple(shape)
    if fitting("broadcast_to", x.shape, wanted) != wanted:
        raise BroadcastError(f"broadcast_to: shape {x.shape} does not broadcast to {wanted}")
    if x.shape == wanted:
        return x
    return record("broadcast_to", (node_of(x),), wanted, x.dtype, sizes=wanted)


def broadcast_arrays(*arrays: Array) -> list[Array]:
    """All arrays in the shape that they broadcast to."""
    shape = fitting("broadcast_arrays", *(array.shape for array in arrays))
    return [broadcast_to(array, shape) for array in arrays]


def concat(arrays: Sequence[Array], /, *, axis: int | None = 0) -> Array:
    """The arrays one behind the other."""
    parts = list(arrays) if axis is not None else [_reshaped(one, (one.size,)) for one in arrays]
    if not parts:
        raise ValueError("concat of no arrays")
    along = shapes.axis(0 if axis is None else axis, parts[0].ndim)
    rests = {(*one.shape[:along], *one.shape[along + 1 :]) for one in parts}
    if len({one.ndim for one in parts}) > 1 or len(rests) > 1:
        listed = " and ".join(str(one.shape) for one in parts)
        raise BroadcastError(f"concat: shapes {listed} differ off axis {along}")
    dtype = parts[0].dtype
    for one in parts[1:]:
        dtype = dtypes.promote(dtype, one.dtype)
    nodes = tuple(convert(node_of(one), dtype) for one in parts if one.size)
    shape = list(parts[0].shape)
    shape[along] = sum(one.shape[along] for one in parts)
    if len(nodes) == 1:
        return array_of(nodes[0])
    return record("concat", nodes, tuple(shape), dtype, attrs=(along,))


def stack(arrays: Sequence[Array], /, *, axis: int = 0) -> Array:
    """The arrays side by side along a new axis."""
    if len({one.shape for one in arrays}) != 1:
        listed = " and ".join(str(one.shape) for one in arrays)
        raise BroadcastError(f"stack: shapes {listed or '()'} differ")
    along = shapes.axis(axis, arrays[0].ndim + 1)
    return concat([expand_dims(one, axis=along) for one in arrays], axis=along)


def unstack(x: Array, /, *, axis: int = 0) -> tuple[Array, ...]:
    """The arrays along an axis."""
    along = shapes.axis(axis, x.ndim)
    return tuple(x[(slice(None),) * along + (index, ...)] for index in range(x.shape[along]))


def expand_dims(x: Array, /, axis: int = 0) -> Array:
    """A new axis of one element."""
    along = shapes.axis(axis, x.ndim + 1)
    return _reshaped(x, (*x.shape[:along], 1, *x.shape[along:]))


def squeeze(x: Array, /, axis: int | Sequence[int]) -> Array:
    """Without axes that are one long."""
    over = shapes.axes(axis, x.ndim)
    if any(x.shape[one] != 1 for one in over):
        raise BroadcastError(f"squeeze: axes {over} of shape {x.shape} are not one long")
    return _reshaped(x, shapes.reduced(x.shape, over, False))


def permute_dims(x: Array, /, axes: Sequence[int]) -> Array:
    """The axes in another order."""
    order = shapes.axes(tuple(axes), x.ndim)
    if len(order) != x.ndim:
        raise shapes.AxisError(f"permute_dims: {tuple(axes)} does not order {x.ndim} axes")
    if order == tuple(range(x.ndim)):
        return x
    shape = tuple(x.shape[one] for one in order)
    return record("permute_dims", (node_of(x),), shape, x.dtype, attrs=(order,))


def moveaxis(x: Array, source: int | Sequence[int], destination: int | Sequence[int], /) -> Array:
    """Some axes at other places, the others in their order."""
    take, put = shapes.axes(source, x.ndim), shapes.axes(destination, x.ndim)
    if len(take) != len(put):
        raise shapes.AxisError(f"moveaxis: {len(take)} axes do not go to {len(put)} places")
    order = [one for one in range(x.ndim) if one not in take]
    for place, one in sorted(zip(put, take)):
        order.insert(place, one)
    return permute_dims(x, order)


def flip(x: Array, /, *, axis: int | Sequence[int] | None = None) -> Array:
    """The elements in reverse order along axes."""
    found = x
    for one in shapes.axes(axis, x.ndim):
        found = record("flip", (node_of(found),), x.shape, x.dtype, attrs=(one,))
    return found


def roll(
    x: Array, /, shift: int | Sequence[int], *, axis: int | Sequence[int] | None = None
) -> Array:
    """The elements moved along axes; what leaves at one end comes in at the other."""
    if axis is None:
        if not isinstance(shift, int):
            raise ValueError("roll over all axes takes one shift")
        return reshape(roll(_reshaped(x, (x.size,)), shift, axis=0), x.shape)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    shifts = (shift,) * len(axes) if isinstance(shift, int) else tuple(shift)
    if len(shifts) != len(axes):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    found = x
    for one, by in zip((shapes.axis(one, x.ndim) for one in axes), shifts):
        if cut := -by % found.shape[one] if found.shape[one] else 0:
            before = (slice(None),) * one
            tail, front = found[(*before, slice(cut, None))], found[(*before, slice(None, cut))]
            found = concat((tail, front), axis=one)
    return found


def tile(x: Array, repetitions: Sequence[int], /) -> Array:
    """Copies of `x` side by side."""
    rank = max(x.ndim, len(repetitions))
    counts = (1,) * (rank - len(repetitions)) + tuple(repetitions)
    sizes = (1,) * (rank - x.ndim) + x.shape
    between = tuple(part for size in sizes for part in (1, size))
    spread = tuple(part for count, size in zip(counts, sizes) for part in (count, size))
    wide = broadcast_to(_reshaped(x, between), spread)
    return _reshaped(wide, tuple(count * size for count, size in zip(counts, sizes)))


def repeat(x: Array, repeats: int | Array, /, *, axis: int | None = None) -> Array:
    """Each element several times; an array of counts cuts the trace."""
    from nexus_compiler.frontend.tracing.functions import indexing

    flat = x if axis is not None else _reshaped(x, (x.size,))
    along = shapes.axis(0 if axis is None else axis, flat.ndim)
    size = flat.shape[along]
    counts: Any = repeats if isinstance(repeats, int) else np.asarray(repeats)
    positions = np.repeat(np.arange(size), counts)
    index = literal(positions) if isinstance(repeats, int) else Array(_known(positions))
    return indexing.take(flat, index, axis=along)


def _known(value: np.ndarray) -> Any:
    from nexus_compiler.frontend.tracing import nodes

    return nodes.leaf(value)
