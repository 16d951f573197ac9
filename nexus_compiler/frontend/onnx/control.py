"""Conditions, and which loops there are; `loop.py` says how they run."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from tvm import relax

from nexus_compiler.frontend.onnx import subgraph
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.subgraph import Closure, Result
from nexus_compiler.frontend.onnx.values import Host, R, Value


@op("If")
def if_(node: Node) -> Sequence[Value]:
    """One of two branches: chosen here where constants or shapes decide, else by the VM."""
    from nexus_compiler.frontend.onnx.importer import Scope

    branches = node.attr("then_branch"), node.attr("else_branch")
    condition = node.value(0)
    if isinstance(condition, Host) and not condition.symbolic:
        chosen: onnx.GraphProto = branches[0 if condition.array.reshape(-1)[0] else 1]
        return node.importer.run_graph(chosen, Scope(node.scope.opsets, outer=node.scope))
    closures = [_branch(node, graph) for graph in branches]
    return choose(node, node.tensor(0), closures)


def _branch(node: Node, graph: onnx.GraphProto) -> Closure:
    from nexus_compiler.frontend.onnx.importer import Scope

    def body() -> list[relax.Expr]:
        scope = Scope(node.scope.opsets, outer=node.scope)
        return [node.importer.tensor(value) for value in node.importer.run_graph(graph, scope)]

    return subgraph.lift(node.importer, "branch", [], body)


def choose(node: Node, condition: relax.Expr, branches: Sequence[Closure]) -> list[Value]:
    """Call the first of two branches where `condition` (one bool) is true, else the second."""
    importer = node.importer
    then, otherwise = branches
    results = [_common(node, a, b) for a, b in zip(then.results, otherwise.results, strict=True)]
    flag = relax.Var("condition", relax.TensorType([], "bool"))
    body = subgraph.conditional(flag, then.call([]), otherwise.call([]))
    closure = subgraph.close(importer, "if", [flag], body, results)
    scalar = importer.emit(R.reshape(condition, []))
    return list(subgraph.call(importer, closure, [scalar]))


def _common(node: Node, a: Result, b: Result) -> Result:
    """What holds for a result of both branches."""
    if a.dtype != b.dtype or len(a.shape) != len(b.shape):
        raise node.refuse(
            f"one branch returns {a.dtype} with {len(a.shape)} dimensions, "
            f"the other {b.dtype} with {len(b.shape)}"
        )
    same = [
        x if x is not None and y is not None and node.sizes.equal(x, y) else None
        for x, y in zip(a.shape, b.shape)
    ]
    return Result(tuple(same), a.dtype)
