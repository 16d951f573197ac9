"""The bits of elements taken for another type, and caches that grow in place."""

from __future__ import annotations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import Host, R, Value, element_type, host, numpy_dtype
from nexus_runtime.tensors import BITS


@op("BitCast")
def bit_cast(node: Node) -> Value:
    """The same bits as another type of the same width."""
    dtype, source = element_type(node.attr("to"), str(node)), node.value(0)
    own = node.dtype(0)
    if own == dtype:
        return source
    if isinstance(source, Host) and not (source.symbolic or source.weight):
        return host(source.array.view(numpy_dtype(dtype)), dtype)
    if "bool" in {own, dtype}:
        # Both sides hold 0 or 1 in a byte; what else a byte may hold is no bool.
        bits = node.emit(R.astype(node.bits(0), "uint8" if dtype in BITS else dtype))
        return node.importer.labelled(bits, dtype)
    bits = node.bits(0)
    carried = "uint8" if dtype in BITS else dtype
    if carried != ("uint8" if own in BITS else own):
        shape = node.shape(bits)
        bits = node.emit(R.memory.view(bits, shape, carried))
    return node.importer.labelled(bits, dtype)


@op("TensorScatter")
def tensor_scatter(node: Node) -> Value:
    """A cache with an update written to places of its own for each element of the batch."""
    cache, update = node.tensor(0), node.tensor(1)
    rank = node.rank(cache)
    axis = node.axis(rank)
    shape, written = node.shape(cache), node.shape(update)[axis]
    size = node.sizes
    line = [shape[axis] if i == axis else 1 for i in range(rank)]
    places: relax.Expr = node.emit(R.reshape(R.arange(0, shape[axis], 1, "int64"), line))
    if node.has(2):
        start = [shape[0], *[1] * (rank - 1)]
        places = node.emit(R.subtract(places, R.reshape(node.tensor(2), start)))
    if node.attr("mode") == "circular":
        places = node.emit(R.floor_mod(places, _number(node, shape[axis])))
    last = _number(node, size.simple(written - 1))
    zero = node.scalar(0, "int64")
    inside = node.emit(R.logical_and(R.greater_equal(places, zero), R.less_equal(places, last)))
    near = R.minimum(R.maximum(places, zero), last)
    taken = node.emit(R.broadcast_to(node.emit(near), shape))
    return R.where(inside, R.gather_elements(update, taken, axis), cache)


def _number(node: Node, size: object) -> relax.Expr:
    """A size as a tensor without dimensions."""
    array = np.empty((), object)
    array[()] = size
    return node.importer.tensor(host(array, "int64"))
