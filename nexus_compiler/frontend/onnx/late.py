"""Operators whose sizes only a run tells: a second way, where the first lacks a constant.

Elements are read at computed places, so that nothing has to be known of bounds and signs.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from nexus_compiler.frontend.onnx import counting
from nexus_compiler.frontend.onnx.counting import at
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.order import sortable
from nexus_compiler.frontend.onnx.registry import late
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, is_float


def _length(node: Node, index: int) -> int:
    """How many elements a vector has."""
    if node.rank(index) != 1:
        raise node.refuse(f"its input {index} has {node.rank(index)} dimensions, not one")
    size = node.shape(index)[0]
    if not isinstance(size, int):
        raise node.refuse(f"the length of its input {index}, {size}, depends on the input")
    return size


def _whole(node: Node, index: int) -> relax.Expr:
    return node.emit(R.astype(node.tensor(index), "int64"))


def _item(node: Node, vector: relax.Expr, place: int) -> relax.Expr:
    piece = R.strided_slice(vector, [0], [place], [place + 1], [1], assume_inbound=True)
    return node.emit(R.reshape(piece, []))


@late("ConstantOfShape")
def constant_of_shape(node: Node) -> Value:
    """A tensor full of one value."""
    value = node.attr("value")
    sizes = counting.sizes(node, node.tensor(0), _length(node, 0))
    dtype = "float32" if value is None else value.dtype.name
    fill = node.scalar(0 if value is None else value.reshape(())[()], dtype)
    return R.full(sizes, fill, dtype) if sizes else fill


@late("Range")
def range_(node: Node) -> Value:
    """start, start + delta, ... below limit."""
    dtype = node.dtype(0)
    start, limit, delta = (node.emit(R.reshape(node.tensor(i), [])) for i in range(3))
    exact = [R.astype(x, "float64") for x in (start, limit, delta)]
    steps = R.ceil(R.divide(R.subtract(exact[1], exact[0]), exact[2]))
    (size,) = counting.sizes(node, R.maximum(steps, node.scalar(0, "float64")), 1)
    places = R.astype(counting.count(node, size), dtype)
    if not is_float(dtype):
        return R.add(start, R.multiply(places, delta))
    return R.add(R.multiply(places, delta), start)


@late("OneHot")
def one_hot(node: Node) -> Value:
    """`values[1]` where the index on a new axis is met, `values[0]` elsewhere."""
    indices, values = node.emit(node.tensor(0)), node.tensor(2)
    (depth,) = counting.sizes(node, node.tensor(1), 1)
    off, on = (_item(node, values, place) for place in range(2))
    rank, dtype = node.rank(indices) + 1, node.dtype(indices)
    axis = node.axis(rank)
    total = counting.scalar(node, depth, dtype)
    negative = R.less(indices, node.scalar(0, dtype))
    wrapped = node.emit(R.where(negative, R.add(indices, total), indices))
    shape: list[Any] = [depth if i == axis else 1 for i in range(rank)]
    places = R.astype(R.reshape(counting.count(node, depth), shape), dtype)
    return R.where(R.equal(R.expand_dims(wrapped, [axis]), places), on, off)


@late("Expand")
def expand(node: Node) -> Value:
    """Both shapes broadcast; an axis of the input repeats where it is 1 long."""
    x = node.emit(node.tensor(0))
    rank = _length(node, 1)
    own = [1] * (rank - node.rank(x)) + node.shape(x)
    wanted = _whole(node, 1)
    if len(own) > rank:
        wanted = R.concat([R.ones([len(own) - rank], "int64"), wanted], 0)
    x = node.emit(R.reshape(x, own))
    mine = counting.vector(node, own)
    one = node.scalar(1, "int64")
    fits = R.logical_or(R.equal(wanted, one), R.equal(wanted, mine))
    # -1 stops the run.
    both = R.where(R.equal(mine, one), wanted, R.where(fits, mine, node.scalar(-1, "int64")))
    fixed = {axis: size for axis, size in enumerate(own) if node.sizes.equal(size, 1) is False}
    for axis, size in enumerate(counting.sizes(node, both, len(own), fixed)):
        if axis not in fixed:
            x = at(node, x, _repeating(node, size, own[axis]), axis)
    return x


@late("Tile")
def tile(node: Node) -> Value:
    """Repeats the tensor along its axes."""
    x = node.emit(node.tensor(0))
    own = node.shape(x)
    total = R.multiply(counting.vector(node, own), _whole(node, 1))
    for axis, size in enumerate(counting.sizes(node, total, len(own))):
        x = at(node, x, _repeating(node, size, own[axis]), axis)
    return x


def _repeating(node: Node, size: Size, period: Size) -> relax.Expr:
    """0, 1, ... below `period`, again and again."""
    return node.emit(R.floor_mod(counting.count(node, size), counting.scalar(node, period)))


@late("Reshape")
def reshape(node: Node) -> Value:
    """0 keeps a size, -1 takes what is left."""
    x = node.emit(node.tensor(0))
    rank, own = _length(node, 1), node.shape(x)
    wanted = _whole(node, 1)
    zero, one = node.scalar(0, "int64"), node.scalar(1, "int64")
    if not node.attr("allowzero", 0):
        mine = counting.vector(node, [*own, *[1] * rank][:rank])
        wanted = node.emit(R.where(R.equal(wanted, zero), mine, wanted))
    open_ = node.emit(R.less(wanted, zero))
    known = R.prod(node.emit(R.where(open_, one, wanted)))
    total = counting.scalar(node, node.sizes.product(own))
    rest = R.floor_divide(total, R.maximum(known, one))
    shape = node.emit(R.where(open_, rest, wanted))
    every = R.concat([shape, R.prod(shape, [0], True)], 0)
    # The number of elements must stay, or memory beyond the tensor would be read.
    fixed = {rank: node.sizes.product(own)}
    return R.reshape(x, counting.sizes(node, every, rank + 1, fixed)[:rank])


@late("Slice")
def slice_(node: Node) -> Value:
    """Python's slices, with bounds, and steps too, of any sign."""
    x = node.emit(node.tensor(0))
    amount = _length(node, 1)
    axes = node.axes(3, node.rank(x)) or list(range(amount))
    starts, ends = _whole(node, 1), _whole(node, 2)
    steps = _whole(node, 4) if node.has(4) else node.emit(R.ones([amount], "int64"))
    own = counting.vector(node, [node.shape(x)[axis] for axis in axes])
    zero, one = node.scalar(0, "int64"), node.scalar(1, "int64")
    back = node.emit(R.less(steps, zero))
    lowest = node.emit(R.where(back, R.negative(one), zero))
    highest = node.emit(R.where(back, R.subtract(own, one), own))

    def inside(bound: relax.Expr) -> relax.Expr:
        counted = R.where(R.less(bound, zero), R.add(bound, own), bound)
        return node.emit(R.minimum(R.maximum(counted, lowest), highest))

    begin, stop = inside(starts), inside(ends)
    span = R.where(back, R.subtract(begin, stop), R.subtract(stop, begin))
    stride = node.emit(R.abs(steps))
    many = R.floor_divide(R.add(span, R.subtract(stride, one)), stride)
    for place, size in enumerate(counting.sizes(node, R.maximum(many, zero), amount)):
        moved = R.multiply(counting.count(node, size), _item(node, steps, place))
        x = at(node, x, node.emit(R.add(moved, _item(node, begin, place))), axes[place])
    return x


@late("TopK")
def top_k(node: Node) -> list[Value]:
    """The k largest or smallest elements of an axis and their places."""
    x = node.emit(node.tensor(0))
    axis = node.axis(node.rank(x))
    largest = bool(node.attr("largest", 1))
    node.attr("sorted")
    own = counting.scalar(node, node.shape(x)[axis])
    (size,) = counting.sizes(node, R.minimum(R.reshape(node.tensor(1), []), own), 1)
    order = node.emit(R.argsort(sortable(node, x), axis, largest, "int64"))
    places = at(node, order, counting.count(node, size), axis)
    return [node.emit(R.gather_elements(x, places, axis)), places]


@late("Pad")
def pad(node: Node) -> Value:
    """Pads, or cuts where a number is negative, the axes of a tensor."""
    x = node.emit(node.tensor(0))
    axes = node.axes(3, node.rank(x)) or list(range(node.rank(x)))
    mode: str = node.attr("mode", "constant")
    pads, own = _whole(node, 1), [node.shape(x)[axis] for axis in axes]
    before, after = (
        node.emit(R.strided_slice(pads, [0], [i * len(axes)], [(i + 1) * len(axes)]))
        for i in range(2)
    )
    total = R.add(R.add(counting.vector(node, own), before), after)
    fill = node.scalar(0, node.dtype(x))
    if node.has(2):
        fill = node.emit(R.reshape(node.tensor(2), []))
    for place, size in enumerate(counting.sizes(node, total, len(axes))):
        raw = R.subtract(counting.count(node, size), _item(node, before, place))
        x = _padded(node, x, axes[place], node.emit(raw), mode, fill)
    return x


def _padded(
    node: Node, x: relax.Expr, axis: int, places: relax.Expr, mode: str, fill: relax.Expr
) -> relax.Expr:
    """The axis read at `places`, some of which are outside of it."""
    own = node.shape(x)[axis]
    size, one = counting.scalar(node, own), node.scalar(1, "int64")
    if mode == "wrap":
        return at(node, x, node.emit(R.floor_mod(places, size)), axis)
    if mode == "reflect":
        period = R.maximum(R.multiply(node.scalar(2, "int64"), R.subtract(size, one)), one)
        around = node.emit(R.floor_mod(places, node.emit(period)))
        return at(node, x, node.emit(R.minimum(around, R.subtract(period, around))), axis)
    piece = at(node, x, places, axis)
    if mode == "edge":
        return piece
    within = R.logical_and(R.greater_equal(places, node.scalar(0, "int64")), R.less(places, size))
    others = [other for other in range(node.rank(x)) if other != axis]
    within = node.emit(R.expand_dims(node.emit(within), others))
    return node.emit(R.where(within, piece, fill))
