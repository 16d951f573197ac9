"""Values that come from nowhere or from a shape: constants, ranges, filled tensors."""

from __future__ import annotations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import (
    CODE_ELEMENTS,
    Host,
    R,
    Value,
    element_type,
    host,
    is_float,
)


@op("Constant")
def constant(node: Node) -> Value:
    """A stored value; a large one of floats is a weight like any initializer."""
    kinds = {"value_float": "float32", "value_floats": "float32"}
    names = ("value", "value_float", "value_floats", "value_int", "value_ints")
    for name in names:
        value = node.attr(name)
        if value is not None:
            break
    else:
        raise node.refuse("it holds strings or a sparse tensor")
    array = value if isinstance(value, np.ndarray) else np.asarray(value, kinds.get(name, "int64"))
    weight = is_float(array.dtype.name) and array.size > CODE_ELEMENTS
    return Host(array, array.dtype.name, node.proto.output[0], weight)


@op("Identity")
def identity(node: Node) -> Value:
    """The input itself; a weight keeps its own name."""
    return node.value(0)


@op("Shape")
def shape(node: Node) -> Value:
    """The sizes of a tensor, as a value of the importer."""
    sizes = node.shape(0)
    start = node.attr("start", 0)
    end = node.attr("end", len(sizes))
    array = np.empty(len(sizes), object)
    array[:] = sizes
    return host(array[start:end], "int64")


@op("Size")
def size(node: Node) -> Value:
    """The number of elements, as a value of the importer."""
    array = np.empty((), object)
    array[()] = node.sizes.product(node.shape(0))
    return host(array, "int64")


@op("ConstantOfShape")
def constant_of_shape(node: Node) -> Value:
    """A tensor full of one value."""
    value = node.attr("value")
    fill = np.zeros(1, "float32") if value is None else value
    sizes = node.vector(0)
    dtype = fill.dtype.name
    if all(isinstance(s, int) for s in sizes) and np.prod(sizes) <= CODE_ELEMENTS:
        return Host(np.full(sizes, fill.reshape(())[()], fill.dtype), dtype)
    return R.full(sizes, node.scalar(fill.reshape(())[()], dtype), dtype)


@op("Range")
def range_(node: Node) -> Value:
    """start, start + delta, ... below limit."""
    dtype = node.dtype(0)
    start, limit, delta = (node.vector(index)[0] for index in range(3))
    if is_float(dtype):
        start, limit, delta = (float(node.array(index)) for index in range(3))
        array = np.arange(start, limit, delta, dtype=dtype)
        return host(array)
    return R.arange(start, limit, delta, dtype)


@op("EyeLike")
def eye_like(node: Node) -> Value:
    """Ones on a diagonal."""
    rows, columns = node.shape(0)
    number = node.attr("dtype")
    dtype = element_type(number, str(node)) if number else node.dtype(0)
    return R.eye(rows, columns, node.attr("k"), dtype)


@op("OneHot")
def one_hot(node: Node) -> Value:
    """`values[1]` where the index on a new axis is met, `values[0]` elsewhere."""
    indices, depth = node.tensor(0), int(node.array(1).reshape(-1)[0])
    off, on = (R.squeeze(t, [0]) for t in _halves(node, node.tensor(2)))
    rank = node.rank(indices) + 1
    axis = node.axis(rank)
    dtype = node.dtype(indices)
    size = node.scalar(depth, dtype)
    # Indices from -depth to -1 count from the end; whatever else is outside is "off" everywhere.
    negative = R.less(indices, node.scalar(0, dtype))
    wrapped = node.emit(R.where(negative, R.add(indices, size), indices))
    places = R.reshape(
        R.arange(0, depth, 1, "int64"), [depth if i == axis else 1 for i in range(rank)]
    )
    match = R.equal(R.expand_dims(wrapped, [axis]), R.astype(places, dtype))
    return R.where(match, on, off)


def _halves(node: Node, pair: relax.Expr) -> list[relax.Expr]:
    both = node.emit(R.split(pair, 2, 0))
    return [relax.TupleGetItem(both, index) for index in range(2)]
