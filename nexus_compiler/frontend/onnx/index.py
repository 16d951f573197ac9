"""Operators that pick or change elements by index."""

from __future__ import annotations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import ENDLESS, Size
from nexus_compiler.frontend.onnx.values import Host, R, Value, host


@op("Slice")
def slice_(node: Node) -> Value:
    """Python's slices; a negative step is a positive one on the flipped axis."""
    x = node.tensor(0)
    shape = node.shape(x)
    starts, ends, axes, steps = _slice_operands(node, len(shape))
    begin: list[Size] = []
    finish: list[Size] = []
    for start, end, axis, step in zip(starts, ends, axes, steps):
        size = shape[axis]
        low, high = (_inside(node, size, place, step < 0) for place in (start, end))
        if step < 0:
            x = node.emit(R.flip(x, axis))
            low, high = (node.sizes.simple(size - 1 - place) for place in (low, high))
        begin.append(low)
        finish.append(node.sizes.maximum(low, high))
    if all(step == 1 for step in steps) and _whole(node, shape, axes, begin, finish):
        return x
    strides = [abs(step) for step in steps]
    return R.strided_slice(x, axes, begin, finish, strides, assume_inbound=True)


def _whole(
    node: Node, shape: list[Size], axes: list[int], begin: list[Size], finish: list[Size]
) -> bool:
    """Whether the slice takes everything."""
    bounds = zip(axes, begin, finish)
    equal = node.sizes.equal
    return all(equal(low, 0) and equal(high, shape[axis]) for axis, low, high in bounds)


def _slice_operands(node: Node, rank: int) -> tuple[list[Size], list[Size], list[int], list[int]]:
    if node.opset < 10:
        starts, ends = list(node.attr("starts")), list(node.attr("ends"))
        named = node.attr("axes") or list(range(len(starts)))
        return starts, ends, [node.axis(rank, a) for a in named], [1] * len(starts)
    starts, ends = node.vector(1), node.vector(2)
    axes = node.axes(3, rank) if node.has(3) else list(range(len(starts)))
    steps = [int(step) for step in node.array(4)] if node.has(4) else [1] * len(starts)
    return starts, ends, axes or [], steps


def _inside(node: Node, size: Size, place: Size, backwards: bool) -> Size:
    """`place` counted from the start, and limited to the axis."""
    sizes = node.sizes
    negative = sizes.less(place, 0)
    if negative is None:
        raise node.refuse(f"a bound, {place}, may be negative or not, depending on the input")
    if negative:
        lowest = -1 if backwards else 0
        if isinstance(place, int) and place <= -ENDLESS:
            return lowest
        return sizes.maximum(sizes.simple(place + size), lowest)
    if isinstance(place, int) and place >= ENDLESS:
        return sizes.simple(size - 1) if backwards else size
    return sizes.minimum(place, sizes.simple(size - 1) if backwards else size)


@op("Gather")
def gather(node: Node) -> Value:
    """Picks slices of an axis."""
    x, indices = node.tensor(0), node.value(1)
    axis = node.axis(node.rank(x))
    if isinstance(indices, Host) and indices.array.ndim == 0:
        size = node.shape(x)[axis]
        place = _inside(node, size, node.vector(1)[0], backwards=True)
        piece = R.strided_slice(
            x, [axis], [place], [node.sizes.simple(place + 1)], [1], assume_inbound=True
        )
        return R.squeeze(node.emit(piece), [axis])
    # "wrap" counts negative indices from the end, and never reads outside of the tensor.
    return R.take(x, node.tensor(1), axis, mode="wrap")


def _from_start(node: Node, indices: relax.Expr, size: Size) -> relax.Expr:
    """Indices of an axis of `size`, with negative ones counted from the end."""
    dtype = node.dtype(indices)
    length = np.empty((), object)
    length[()] = size
    total = node.importer.tensor(host(length, dtype))
    negative = R.less(indices, node.scalar(0, dtype))
    return node.emit(R.where(negative, R.add(indices, total), indices))


@op("GatherElements")
def gather_elements(node: Node) -> Value:
    """Picks single elements along an axis."""
    x, indices = node.tensor(0), node.tensor(1)
    axis = node.axis(node.rank(x))
    return R.gather_elements(x, _from_start(node, indices, node.shape(x)[axis]), axis)


@op("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> Value:
    """Replaces (or adds to, ...) single elements along an axis."""
    x, indices, updates = node.tensors()
    axis = node.axis(node.rank(x))
    return R.scatter_elements(
        x,
        _from_start(node, indices, node.shape(x)[axis]),
        updates,
        axis,
        {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}[
            node.attr("reduction", "none")
        ],
    )


def _tuples_from_start(node: Node, indices: relax.Expr, shape: list[Size]) -> relax.Expr:
    """Index tuples with negative places counted from the end."""
    depth = node.static(indices, "its indices")[-1] if node.rank(indices) == 1 else None
    depth = depth if depth is not None else node.shape(indices)[-1]
    if not isinstance(depth, int):
        raise node.refuse("the length of its index tuples depends on the input")
    array = np.empty(depth, object)
    array[:] = shape[:depth]
    sizes = node.importer.tensor(host(array, "int64"))
    negative = R.less(indices, node.scalar(0, "int64"))
    return node.emit(R.where(negative, R.add(indices, sizes), indices))


@op("GatherND")
def gather_nd(node: Node) -> Value:
    """Picks slices by index tuples."""
    x, indices = node.tensors()
    batch = node.attr("batch_dims", 0)
    return R.gather_nd(x, _tuples_from_start(node, indices, node.shape(x)[batch:]), batch)


@op("ScatterND")
def scatter_nd(node: Node) -> Value:
    """Replaces (or adds to, ...) slices by index tuples."""
    x, indices, updates = node.tensors()
    kind = node.attr("reduction", "none")
    names = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}
    return R.scatter_nd(x, _tuples_from_start(node, indices, node.shape(x)), updates, names[kind])
