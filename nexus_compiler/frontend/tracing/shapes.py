"""Arithmetic of shapes and axes; every mistake is an error that names the shapes."""

from __future__ import annotations

from collections.abc import Sequence

from nexus_compiler.frontend.tracing.nodes import Shape
from nexus_runtime.errors import ShapeError


class AxisError(ShapeError, ValueError, IndexError):
    """An axis is out of range, or is named twice."""


class BroadcastError(ShapeError, ValueError):
    """Shapes do not fit each other."""


def broadcast(*shapes: Shape) -> Shape:
    """The shape that all of `shapes` broadcast to.

    Raises:
        BroadcastError: they do not.
    """
    rank = max(map(len, shapes), default=0)
    found = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size != 1:
                if found[axis] not in (1, size):
                    listed = " and ".join(map(str, shapes))
                    raise BroadcastError(f"shapes {listed} do not broadcast: axis {axis - rank}")
                found[axis] = size
    return tuple(found)


def axis(value: int, rank: int) -> int:
    """One axis as a number from 0.

    Raises:
        AxisError: it is out of range.
    """
    if not -rank <= value < rank:
        raise AxisError(f"axis {value} is out of range for {rank} dimensions")
    return value % rank


def axes(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Some or (None) all axes, as numbers from 0.

    Raises:
        AxisError: one is out of range or named twice.
    """
    if value is None:
        return tuple(range(rank))
    listed = (value,) if isinstance(value, int) else tuple(value)
    found = tuple(axis(one, rank) for one in listed)
    if len(set(found)) != len(found):
        raise AxisError(f"an axis is named twice in {listed}")
    return found


def reduced(shape: Shape, over: tuple[int, ...], keepdims: bool) -> Shape:
    """`shape` after a reduction over the axes `over`."""
    if keepdims:
        return tuple(1 if index in over else size for index, size in enumerate(shape))
    return tuple(size for index, size in enumerate(shape) if index not in over)


def count(shape: Shape) -> int:
    """The number of elements."""
    total = 1
    for size in shape:
        total *= size
    return total
