"""Determinants."""

from __future__ import annotations

from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import R, Value
from nexus_runtime.errors import ShapeError

LARGEST = 32
"""Every column is a dozen operators."""


@op("Det")
def determinant(node: Node) -> Value:
    """The determinant of every matrix, by elimination with the largest element of each column."""
    x = node.tensor(0)
    *batch, rows, columns = node.shape(x)
    if not isinstance(rows, int) or not 0 < rows <= LARGEST:
        raise node.refuse(f"its matrices are {rows} rows high; 1 to {LARGEST} are handled")
    if node.sizes.equal(rows, columns) is not True:
        raise ShapeError(f"{node} takes square matrices, not {rows} x {columns}")
    count = node.sizes.product(batch)
    rest = node.emit(R.reshape(x, [count, rows, rows]))
    result = node.emit(R.ones([count], node.dtype(x)))
    for size in range(rows, 1, -1):
        pivot, rest = _eliminated(node, rest, size)
        result = node.emit(R.multiply(result, pivot))
    return R.reshape(R.multiply(result, R.reshape(rest, [count])), batch)


def _eliminated(node: Node, x: relax.Expr, size: int) -> tuple[relax.Expr, relax.Expr]:
    """The signed pivot of the first column of `[count, size, size]`, and what remains."""
    dtype = node.dtype(x)
    zero, one = node.scalar(0, dtype), node.scalar(1, dtype)
    parts = node.emit(R.split(x, [1], 1))
    top = node.emit(relax.TupleGetItem(parts, 0))
    column = R.squeeze(R.strided_slice(x, [2], [0], [1], [1]), [2])
    best = node.emit(R.argmax(R.abs(column), 1))
    chosen = node.emit(R.expand_dims(R.one_hot(best, 1.0, 0.0, size, 1), [2]))
    chosen = node.emit(R.greater(chosen, node.scalar(0.5, "float32")))
    row = node.emit(R.sum(R.where(chosen, x, zero), [1], True))
    # The first row takes the place of the chosen one, which costs a sign.
    others = R.where(chosen, top, x)
    others = node.emit(R.strided_slice(others, [1], [1], [size], [1]))
    left, right = (node.emit(R.split(t, [1], 2)) for t in (others, row))
    pivot = node.emit(relax.TupleGetItem(right, 0))
    safe = R.where(R.equal(pivot, zero), one, pivot)
    factor = R.divide(relax.TupleGetItem(left, 0), safe)
    step = R.multiply(factor, relax.TupleGetItem(right, 1))
    remaining = node.emit(R.subtract(relax.TupleGetItem(left, 1), step))
    flat = R.squeeze(pivot, [1, 2])
    stays = R.equal(best, node.scalar(0, "int64"))
    return node.emit(R.where(stays, flat, R.negative(flat))), remaining
