"""Scan: a loop over the slices of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from tvm import relax

from nexus_compiler.frontend.onnx.loop import Body, Turn
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.recursion import repeat
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.scope import Scope
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value, host


@op("Scan")
def scan(node: Node) -> list[Value]:
    """Steps over the slices of the last inputs, with a state; what they give is stacked."""
    if node.opset < 9:
        return _batched(node)
    graph: onnx.GraphProto = node.attr("body")
    count: int = node.attr("num_scan_inputs")
    states = len(node) - count
    state = [node.emit(node.tensor(index)) for index in range(states)]
    scanned = [node.emit(node.tensor(index)) for index in range(states, len(node))]
    axes = _axes(node, "scan_input_axes", [node.rank(x) for x in scanned])
    steps = _steps(node, scanned, axes)
    backwards: list[int] = node.attr("scan_input_directions") or [0] * count

    def step(place: relax.Var, inner: Sequence[relax.Var]) -> Turn:
        slices = [
            _slice(node, x, axis, place, steps if back else None)
            for x, axis, back in zip(scanned, axes, backwards, strict=True)
        ]
        results = _results(node, graph, [*inner, *slices])
        return Turn(None, results[:states], results[states:])

    body = Body(node.importer, "scan", state, step)
    last, rows = repeat(node.importer, body, steps, state)
    return [*last, *_placed(node, rows)]


def _batched(node: Node) -> list[Value]:
    """Opset 8: the first axis of all tensors is a batch, whose elements are scanned one by one."""
    if node.has(0):
        raise node.refuse("its sequences have lengths of their own", "convert it to opset 9")
    graph: onnx.GraphProto = node.attr("body")
    given = [node.emit(node.tensor(index)) for index in range(1, len(node))]
    states = len(given) - node.attr("num_scan_inputs")
    scanned = given[states:]
    steps = _steps(node, scanned, [1] * len(scanned))
    backwards: list[int] = node.attr("directions") or [0] * len(scanned)
    importer = node.importer

    def one(place: relax.Var, _: Sequence[relax.Var]) -> Turn:
        own = [_slice(node, x, 0, place, None) for x in given]

        def step(inner: relax.Var, state: Sequence[relax.Var]) -> Turn:
            slices = [
                _slice(node, x, 0, inner, steps if back else None)
                for x, back in zip(own[states:], backwards, strict=True)
            ]
            results = _results(node, graph, [*state, *slices])
            return Turn(None, results[:states], results[states:])

        body = Body(importer, "scan", own[:states], step)
        last, rows = repeat(importer, body, steps, own[:states])
        return Turn(None, [], [*last, *rows])

    _, rows = repeat(
        importer, Body(importer, "batch", [], one), _steps(node, given, [0] * len(given)), []
    )
    return list(rows)


def _axes(node: Node, name: str, ranks: Sequence[int]) -> list[int]:
    given: list[int] = node.attr(name) or [0] * len(ranks)
    return [node.axis(rank, axis) for rank, axis in zip(ranks, given, strict=True)]


def _steps(node: Node, scanned: Sequence[relax.Expr], axes: Sequence[int]) -> Size:
    lengths = [node.shape(x)[axis] for x, axis in zip(scanned, axes)]
    if any(node.sizes.equal(lengths[0], other) is not True for other in lengths):
        raise node.refuse(f"the axes that it scans may differ in length: {lengths}")
    return lengths[0]


def _slice(
    node: Node, x: relax.Expr, axis: int, place: relax.Expr, backwards: Size | None
) -> relax.Expr:
    """Slice `place` of an axis, counted from its end if that is `backwards`."""
    if backwards is not None:
        array = np.empty((), object)
        array[()] = node.sizes.simple(backwards - 1)
        last = node.importer.tensor(host(array, "int64"))
        place = R.subtract(last, place)
    return node.emit(R.take(x, place, axis, mode="clip"))


def _results(node: Node, graph: onnx.GraphProto, inputs: Sequence[Value]) -> list[relax.Expr]:
    scope = Scope(node.scope.opsets, outer=node.scope)
    scope.values.update(zip((value.name for value in graph.input), inputs, strict=True))
    return [node.importer.tensor(value) for value in node.importer.run_graph(graph, scope)]


def _placed(node: Node, rows: Sequence[relax.Expr]) -> list[Value]:
    """What the steps gave, in the order and along the axes that are asked for."""
    axes = _axes(node, "scan_output_axes", [node.rank(row) for row in rows])
    backwards: list[int] = node.attr("scan_output_directions") or [0] * len(rows)
    found: list[Value] = []
    for row, axis, back in zip(rows, axes, backwards, strict=True):
        turned = node.emit(R.flip(row, 0)) if back else row
        order = list(range(1, node.rank(row)))
        order.insert(axis, 0)
        found.append(R.permute_dims(turned, order) if axis else turned)
    return found
