"""Operators whose results have as many elements as the data says."""

from __future__ import annotations

from tvm import relax

from nexus_compiler.frontend.onnx import counting
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.order import sortable
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value

COLUMNS = 32
"""Rows of so many elements at most are told apart: each column is one sort."""


@op("NonZero")
def non_zero(node: Node) -> Value:
    """The indices of all elements but zeros, one column each."""
    x = node.emit(node.tensor(0))
    shape = node.shape(x) or [1]
    dtype = node.dtype(x)
    flat = node.emit(R.reshape(x, [node.sizes.product(shape)]))
    # TVM's not_equal is false for what is no number, which is no zero either.
    flags = flat if dtype == "bool" else R.logical_not(R.equal(flat, node.scalar(0, dtype)))
    places, _ = counting.positions(node, node.emit(flags))
    rows: list[relax.Expr] = []
    for size in reversed(shape):
        whole = counting.scalar(node, size)
        rows.append(node.emit(R.expand_dims(R.floor_mod(places, whole), [0])))
        places = node.emit(R.floor_divide(places, whole))
    return R.concat(rows[::-1], 0) if len(rows) > 1 else rows[0]


@op("Compress")
def compress(node: Node) -> Value:
    """The slices of an axis where a condition is true; without an axis, of all elements."""
    x = node.emit(node.tensor(0))
    axis = node.attr("axis")
    if axis is None:
        x = node.emit(R.reshape(x, [node.sizes.product(node.shape(x))]))
    places, _ = counting.positions(node, node.emit(node.tensor(1)))
    return counting.at(node, x, places, node.axis(node.rank(x), axis or 0))


@op("Unique")
def unique(node: Node) -> list[Value]:
    """What is different, where it stands first, which of it each element is, and how often."""
    x = node.emit(node.tensor(0))
    axis = node.attr("axis")
    in_order = bool(node.attr("sorted"))
    axis = 0 if axis is None else node.axis(node.rank(x), axis)
    if node.attr("axis") is None:
        x = node.emit(R.reshape(x, [node.sizes.product(node.shape(x))]))
    rows = node.shape(x)[axis]
    order, fresh = _order(node, x, axis)
    starts, found = counting.positions(node, fresh)
    first = counting.at(node, order, starts)
    one = node.scalar(1, "int64")
    group = R.subtract(R.cumsum(R.astype(fresh, "int64"), 0, "int64", False), one)
    inverse = node.emit(
        R.scatter_elements(R.zeros([rows], "int64"), order, node.emit(group), 0, "update")
    )
    ends = node.emit(R.concat([starts, counting.vector(node, [rows])], 0))
    following = counting.at(node, ends, node.emit(R.add(counting.count(node, found), one)))
    often = node.emit(R.subtract(following, starts))
    if not in_order:
        turn = node.emit(R.argsort(first, 0, False, "int64"))
        first, often = counting.at(node, first, turn), counting.at(node, often, turn)
        inverse = counting.at(node, node.emit(R.argsort(turn, 0, False, "int64")), inverse)
    return [counting.at(node, x, first, axis), first, inverse, often]


def _order(node: Node, x: relax.Expr, axis: int) -> tuple[relax.Expr, relax.Expr]:
    """The order that sorts the slices of an axis, and which of the sorted differ from the last.

    Sorts are stable: from the last column to the first, they sort by all columns.
    """
    others = [number for number in range(node.rank(x)) if number != axis]
    shape = node.shape(x)
    rows, width = shape[axis], node.sizes.product(shape[number] for number in others)
    if not isinstance(width, int) or width > COLUMNS:
        raise node.refuse(f"its slices have {width} elements, more than {COLUMNS}")
    table = node.emit(R.reshape(R.permute_dims(x, [axis, *others]), [rows, width]))
    columns = [
        node.emit(R.reshape(R.strided_slice(table, [1], [i], [i + 1]), [rows]))
        for i in range(width)
    ]
    order = counting.count(node, rows)
    for column in reversed(columns):
        keys = counting.at(node, sortable(node, column), order)
        order = counting.at(node, order, node.emit(R.argsort(keys, 0, False, "int64")))
    changes = [_changes(node, counting.at(node, column, order), rows) for column in columns]
    fresh = changes[0]
    for change in changes[1:]:
        fresh = node.emit(R.logical_or(fresh, change))
    return order, fresh


def _changes(node: Node, column: relax.Expr, rows: Size) -> relax.Expr:
    """Where an element differs from the one before it; the first does."""
    places = counting.count(node, rows)
    zero, one = node.scalar(0, "int64"), node.scalar(1, "int64")
    before = counting.at(node, column, node.emit(R.maximum(R.subtract(places, one), zero)))
    return node.emit(R.logical_or(R.not_equal(column, before), R.equal(places, zero)))
