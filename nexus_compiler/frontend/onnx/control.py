"""Conditions, and which loops there are; `loop.py` says how they run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from tvm import relax

from nexus_compiler.frontend.onnx import subgraph
from nexus_compiler.frontend.onnx.loop import Body, Turn
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.recursion import Limit, repeat
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.scope import Scope
from nexus_compiler.frontend.onnx.subgraph import Closure, Result
from nexus_compiler.frontend.onnx.values import Host, R, Value, is_tensor

UNROLLED = 4
"""Loops of so few steps, all of them certain, are written out."""

LONGEST = 256
"""Loops over sequences are always written out, up to so many steps."""


@op("If")
def if_(node: Node) -> Sequence[Value]:
    """One of two branches: chosen here where constants or shapes decide, else by the VM."""
    branches = node.attr("then_branch"), node.attr("else_branch")
    condition = node.value(0)
    if isinstance(condition, Host) and not condition.symbolic:
        chosen: onnx.GraphProto = branches[0 if condition.array.reshape(-1)[0] else 1]
        return node.importer.run_graph(chosen, Scope(node.scope.opsets, outer=node.scope))
    closures = [_branch(node, graph) for graph in branches]
    return choose(node, node.tensor(0), closures)


def _branch(node: Node, graph: onnx.GraphProto) -> Closure:
    def body() -> list[relax.Expr]:
        scope = Scope(node.scope.opsets, outer=node.scope)
        values = node.importer.run_graph(graph, scope)
        if not all(is_tensor(value) for value in values):
            raise node.unknown(0, "decides over sequences or optionals; it must be a constant")
        return [node.importer.tensor(value) for value in values]

    return subgraph.lift(node.importer, "branch", [], body)


def choose(node: Node, condition: relax.Expr, branches: Sequence[Closure]) -> list[Value]:
    """Call the first of two branches where `condition` (one bool) is true, else the second."""
    importer = node.importer
    then, otherwise = branches
    results = [_common(node, a, b) for a, b in zip(then.results, otherwise.results, strict=True)]
    flag = relax.Var("condition", relax.TensorType([], "bool"))
    with subgraph.nested(importer, dataflow=False):
        body = subgraph.choose(importer, flag, then.call([]), otherwise.call([]))
    closure = subgraph.close(importer, "if", [flag], body, results)
    scalar = importer.emit(R.reshape(condition, []))
    return list(subgraph.call(importer, closure, [scalar]))


def _common(node: Node, a: Result, b: Result) -> Result:
    """What holds for a result of both branches."""
    if a.dtype != b.dtype or len(a.shape) != len(b.shape):
        raise node.unknown(
            0,
            f"decides between {a.dtype} with {len(a.shape)} dimensions and {b.dtype} with "
            f"{len(b.shape)}; it must be a constant",
        )
    same = [
        x if x is not None and y is not None and node.sizes.equal(x, y) else None
        for x, y in zip(a.shape, b.shape)
    ]
    return Result(tuple(same), a.dtype)


@op("Loop")
def loop(node: Node) -> list[Value]:
    """Steps until a count is reached or a condition fails; what they give is stacked."""
    graph: onnx.GraphProto = node.attr("body")
    limit, going = _limit(node), node.value(1) if node.has(1) else _TRUE
    state = [node.value(index) for index in range(2, len(node))]
    written = _unrolled(node, graph, limit, going, state)
    return written if written is not None else _repeated(node, graph, limit, going, state)


_TRUE = Host(np.array(True), "bool")


def _limit(node: Node) -> Limit:
    if not node.has(0):
        return None
    value = node.value(0)
    return node.vector(0)[0] if isinstance(value, Host) else value


def _constant(value: Value) -> bool | None:
    """The truth of a condition that is known."""
    known = isinstance(value, Host) and not value.symbolic
    return bool(value.array.reshape(-1)[0]) if isinstance(value, Host) and known else None


def _turn(node: Node, graph: onnx.GraphProto, place: Value, state: Sequence[Value]) -> list[Value]:
    """The results of one step. A step is only made while the condition holds."""
    scope = Scope(node.scope.opsets, outer=node.scope)
    names = [value.name for value in graph.input]
    scope.values.update(zip(names, [place, _TRUE, *state], strict=True))
    return node.importer.run_graph(graph, scope)


def _unrolled(
    node: Node, graph: onnx.GraphProto, limit: Limit, going: Value, state: list[Value]
) -> list[Value] | None:
    """The steps one after another, if there are few and the number is certain."""
    # What a sequence holds must be known in every step.
    known = not all(is_tensor(value) for value in state)
    if known and not isinstance(limit, int):
        raise node.unknown(0, "says how often a sequence changes; it must be a constant")
    if known and _constant(going) is None:
        raise node.unknown(1, "decides over sequences; it must be a constant")
    if not isinstance(limit, int) or _constant(going) is None:
        return None
    if limit > (LONGEST if known else UNROLLED):
        return None
    count, rows = len(state), list[list[relax.Expr]]()
    for place in range(max(limit, 0) if _constant(going) else 0):
        going, *results = _turn(node, graph, Host(np.array(place), "int64"), state)
        state = results[:count]
        rows.append([R.expand_dims(node.importer.tensor(v), [0]) for v in results[count:]])
        if _constant(going) is None:
            return None
        if not _constant(going):
            break
    if not rows:
        return None if len(graph.output) > 1 + count else state
    stacked = [node.emit(R.concat(list(column), 0)) for column in zip(*rows)]
    return [*state, *stacked]


def _repeated(
    node: Node, graph: onnx.GraphProto, limit: Limit, going: Value, initial: Sequence[Value]
) -> list[Value]:
    importer = node.importer
    state = [importer.emit(importer.tensor(value)) for value in initial]

    def step(place: relax.Var, inner: Sequence[relax.Var]) -> Turn:
        follows, *results = _turn(node, graph, place, inner)
        tensors = [importer.tensor(value) for value in results]
        more = None if _constant(follows) else importer.tensor(follows)
        return Turn(more, tensors[: len(state)], tensors[len(state) :])

    certain = _constant(going)
    body = Body(importer, "loop", state, step, conditional=not certain)
    first = importer.emit(R.reshape(importer.tensor(going), [])) if body.conditional else None
    last, rows = repeat(importer, body, limit, state, first)
    return [*last, *rows]
