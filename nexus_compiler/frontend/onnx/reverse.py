"""Sequences in one tensor, turned around each for itself."""

from __future__ import annotations

from nexus_compiler.frontend.onnx import counting
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value


@op("ReverseSequence")
def reverse_sequence(node: Node) -> Value:
    """The first elements of an axis in reverse order, as many as each sequence is long."""
    x = node.emit(node.tensor(0))
    shape = node.shape(x)
    time, batch = node.axis(2, node.attr("time_axis")), node.axis(2, node.attr("batch_axis"))
    if {time, batch} != {0, 1}:
        raise node.refuse(f"its time_axis is {time} and its batch_axis {batch}; they must be 0, 1")
    line: list[Size] = [shape[axis] if axis == time else 1 for axis in range(len(shape))]
    rows: list[Size] = [shape[axis] if axis == batch else 1 for axis in range(len(shape))]
    places = node.emit(R.reshape(counting.count(node, shape[time]), line))
    lengths = node.emit(R.reshape(R.astype(node.tensor(1), "int64"), rows))
    back = R.subtract(R.subtract(lengths, node.scalar(1, "int64")), places)
    taken = node.emit(R.where(R.less(places, lengths), back, places))
    return R.gather_elements(x, node.emit(R.broadcast_to(taken, shape)), time)
