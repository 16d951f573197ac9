"""Linear algebra, without the extension's decompositions."""

from __future__ import annotations

from collections.abc import Sequence

from nexus_compiler.frontend.tracing import dtypes, shapes
from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.functions import creation, manipulation, reductions
from nexus_compiler.frontend.tracing.functions.operands import check, convert, fitting
from nexus_compiler.frontend.tracing.nodes import Node, Shape
from nexus_compiler.frontend.tracing.recording import array_of, node_of, record
from nexus_compiler.frontend.tracing.shapes import BroadcastError


def _pair(name: str, x1: Array, x2: Array) -> tuple[Array, Array]:
    first, second = node_of(x1), node_of(x2)
    dtype = dtypes.promote(first.dtype, second.dtype)
    check(name, dtype, ("numeric",))

    def converted(x: Array, node: Node) -> Array:
        return x if x.dtype == dtype else array_of(convert(node, dtype))

    return converted(x1, first), converted(x2, second)


def matmul(x1: Array, x2: Array, /) -> Array:
    """The matrix product over the last two axes; a vector is a row on the left, else a column.

    Raises:
        BroadcastError: the inner sizes differ, or the outer axes do not broadcast.
    """
    a, b = _pair("matmul", x1, x2)
    if not a.ndim or not b.ndim:
        raise BroadcastError(f"matmul: shapes {a.shape} and {b.shape} need at least one axis each")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise BroadcastError(f"matmul: inner sizes of shapes {a.shape} and {b.shape} differ")
    rows: Shape = a.shape[-2:-1]
    columns: Shape = b.shape[-1:] if b.ndim > 1 else ()
    outer = fitting("matmul", a.shape[:-2], b.shape[:-2])
    shape = (*outer, *rows, *columns)
    if not a.shape[-1]:
        return creation.zeros(shape, dtype=a.dtype)
    return record("matmul", (node_of(a), node_of(b)), shape, a.dtype)


def matrix_transpose(x: Array, /) -> Array:
    """The last two axes swapped."""
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose takes matrices, not shape {x.shape}")
    return manipulation.permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def tensordot(
    x1: Array, x2: Array, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Array:
    """Sums of products over pairs of axes."""
    a, b = _pair("tensordot", x1, x2)
    if isinstance(axes, int):
        if axes < 0 or axes > min(a.ndim, b.ndim):
            raise shapes.AxisError(f"tensordot: {axes} axes of shapes {a.shape} and {b.shape}")
        left, right = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    else:
        left, right = shapes.axes(axes[0], a.ndim), shapes.axes(axes[1], b.ndim)
    inner = tuple(a.shape[one] for one in left)
    if inner != tuple(b.shape[one] for one in right):
        raise BroadcastError(f"tensordot: axes {axes} of shapes {a.shape} and {b.shape} differ")
    rows = [one for one in range(a.ndim) if one not in left]
    columns = [one for one in range(b.ndim) if one not in right]
    outer = (*(a.shape[one] for one in rows), *(b.shape[one] for one in columns))
    width, height = shapes.count(inner), shapes.count(tuple(a.shape[one] for one in rows))
    length = shapes.count(tuple(b.shape[one] for one in columns))
    matrix = manipulation.reshape(manipulation.permute_dims(a, (*rows, *left)), (height, width))
    other = manipulation.reshape(manipulation.permute_dims(b, (*right, *columns)), (width, length))
    return manipulation.reshape(matmul(matrix, other), outer)


def vecdot(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Sums of products along one axis."""
    a, b = _pair("vecdot", x1, x2)
    if not -min(a.ndim, b.ndim) <= axis < 0:
        raise shapes.AxisError(f"vecdot: axis {axis} of shapes {a.shape} and {b.shape}")
    if a.shape[axis] != b.shape[axis]:
        raise BroadcastError(f"vecdot: shapes {a.shape} and {b.shape} differ on axis {axis}")
    return reductions.sum(a * b, axis=axis, dtype=a.dtype)
