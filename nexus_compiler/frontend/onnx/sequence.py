"""Sequences and optionals, whose lengths are settled while importing: they leave no code.

A sequence is a Relax tuple; an optional is what is in it, or `NOTHING`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.scope import Scope
from nexus_compiler.frontend.onnx.values import Host, R, Value

NOTHING = Host(np.empty(0, object), "nothing")
"""An optional with nothing in it."""


def _is_nothing(value: Value) -> bool:
    return isinstance(value, Host) and value.dtype == NOTHING.dtype


def items(node: Node, index: int) -> list[relax.Expr]:
    """The elements of a sequence among the inputs."""
    value = node.value(index)
    if isinstance(value, Host) or not isinstance(value.ty, relax.TupleType):
        raise node.refuse(f"its input {index} ('{node.proto.input[index]}') is no sequence")
    return [node.emit(relax.TupleGetItem(value, i)) for i in range(len(value.ty.fields))]


def _sequence(node: Node, tensors: Sequence[relax.Expr]) -> relax.Expr:
    return relax.Tuple([node.emit(tensor) for tensor in tensors])


def _place(node: Node, index: int, length: int, default: int) -> int:
    """A position in a sequence of `length` places, counted from its start."""
    place = int(node.array(index).reshape(-1)[0]) if node.has(index) else default
    if not -length <= place < length:
        raise node.refuse(f"position {place} is outside of a sequence of {length} places")
    return place % length


@op("SequenceConstruct")
def construct(node: Node) -> Value:
    """The inputs."""
    return _sequence(node, node.tensors())


@op("SequenceEmpty")
def empty(node: Node) -> Value:
    """No elements."""
    node.ignore("dtype")
    return relax.Tuple([])


@op("SequenceLength")
def length(node: Node) -> Value:
    """How many elements there are."""
    return Host(np.array(len(items(node, 0)), "int64"), "int64")


@op("SequenceAt")
def at(node: Node) -> Value:
    """One element."""
    found = items(node, 0)
    return found[_place(node, 1, len(found), 0)]


@op("SequenceInsert")
def insert(node: Node) -> Value:
    """One element more, by default at the end."""
    found = items(node, 0)
    place = int(node.array(2).reshape(-1)[0]) if node.has(2) else len(found)
    if not -len(found) <= place <= len(found):
        raise node.refuse(f"position {place} is outside of a sequence of {len(found)} elements")
    found.insert(place, node.tensor(1))
    return _sequence(node, found)


@op("SequenceErase")
def erase(node: Node) -> Value:
    """One element less, by default the last."""
    found = items(node, 0)
    del found[_place(node, 1, len(found), -1)]
    return _sequence(node, found)


@op("ConcatFromSequence")
def concat(node: Node) -> Value:
    """All elements in one tensor, along an axis, which may be new."""
    found = items(node, 0)
    if not found:
        raise node.refuse("its sequence is empty")
    new = bool(node.attr("new_axis"))
    axis = node.axis(node.rank(found[0]) + new)
    if new:
        found = [node.emit(R.expand_dims(item, [axis])) for item in found]
    return R.concat(found, axis)


@op("SplitToSequence")
def split(node: Node) -> Value:
    """Pieces of an axis: of given sizes, or of one element each."""
    x = node.emit(node.tensor(0))
    axis = node.axis(node.rank(x))
    keep = bool(node.attr("keepdims")) or node.has(1)
    node.ignore("keepdims")
    sizes = node.array(1) if node.has(1) else np.array(1)
    if sizes.ndim == 0:
        whole, size = node.shape(x)[axis], int(sizes)
        if not isinstance(whole, int):
            raise node.refuse(f"how many pieces axis {axis} has, depends on the input")
        sizes = np.array([min(size, whole - low) for low in range(0, whole, size)])
    ends = np.cumsum(sizes)
    pieces = [
        R.strided_slice(x, [axis], [int(end - size)], [int(end)], [1], assume_inbound=True)
        for size, end in zip(sizes, ends)
    ]
    if not keep:
        pieces = [R.squeeze(node.emit(piece), [axis]) for piece in pieces]
    return _sequence(node, pieces)


@op("SequenceMap")
def map_(node: Node) -> list[Value]:
    """The body for each element of the first sequence, and of the others at the same place."""
    graph: onnx.GraphProto = node.attr("body")
    columns: list[list[Any]] = []
    count = len(items(node, 0))
    for index in range(len(node)):
        value = node.value(index)
        one = isinstance(value, Host) or not isinstance(value.ty, relax.TupleType)
        columns.append([value] * count if one else items(node, index))
    if any(len(column) != count for column in columns):
        raise node.refuse(f"its sequences have {[len(column) for column in columns]} elements")
    rows: list[list[relax.Expr]] = []
    for inputs in zip(*columns):
        scope = Scope(node.scope.opsets, outer=node.scope)
        scope.values.update(zip((value.name for value in graph.input), inputs, strict=True))
        rows.append([node.importer.tensor(v) for v in node.importer.run_graph(graph, scope)])
    return [_sequence(node, [row[i] for row in rows]) for i in range(len(graph.output))]


@op("Optional")
def optional(node: Node) -> Value:
    """What is given, or nothing."""
    node.ignore("type")
    return node.value(0) if node.has(0) else NOTHING


@op("OptionalHasElement")
def has_element(node: Node) -> Value:
    """Whether there is something in it."""
    there = node.has(0) and not _is_nothing(node.value(0))
    return Host(np.array(there), "bool")


@op("OptionalGetElement")
def get_element(node: Node) -> Value:
    """What is in it."""
    value = node.value(0)
    if _is_nothing(value):
        raise node.refuse("its optional is empty")
    return value
