"""Control flow, as far as it is decided while importing."""

from __future__ import annotations

from collections.abc import Sequence

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.values import Value


@op("If")
def if_(node: Node) -> Sequence[Value]:
    """The branch that a condition on shapes or constants chooses."""
    from nexus_compiler.frontend.onnx.importer import Scope

    chosen = bool(node.array(0).reshape(-1)[0])
    branches = node.attr("else_branch"), node.attr("then_branch")
    return node.importer.run_graph(branches[chosen], Scope(node.scope.opsets, outer=node.scope))
