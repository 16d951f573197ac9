"""The operator that differentiates a part of the graph that it stands in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import onnx
from tvm import relax

from nexus_compiler.frontend.onnx import support
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.scope import Scope
from nexus_compiler.frontend.onnx.training import DOMAIN
from nexus_compiler.frontend.onnx.values import Value, is_float
from nexus_compiler.passes.differentiate import emit_gradients

Binding = tuple[Any, Any]


@op("Gradient", domain=DOMAIN)
def gradient(node: Node) -> list[Value]:
    """What `y` changes by with each of `xs`, where these, and `zs`, have the values of the inputs.

    Of a tensor `y` it is the gradient of the sum of its elements.
    """
    xs, zs = list(node.attr("xs")), list(node.attr("zs") or [])
    names = [*xs, *zs]
    if len(names) != len(node) or len(set(names)) != len(names):
        raise node.refuse(f"it has {len(node)} inputs for its xs and zs, {names}")
    tensors = [node.tensor(index) for index in range(len(names))]
    for index, name in enumerate(xs):
        if not is_float(node.dtype(index)):
            raise node.refuse(f"'{name}' is {node.dtype(index)}: it has no gradient")
    sources, y = _function(node, names, tensors)
    if not is_float(node.dtype(y)):
        raise node.refuse(f"its y is {node.dtype(y)}: it has no gradient")
    bindings = _bindings(node, y, set(sources))
    return emit_gradients(node.importer.builder, bindings, y, sources[: len(xs)])


def _function(
    node: Node, names: Sequence[str], tensors: Sequence[relax.Expr]
) -> tuple[list[relax.Expr], relax.Expr]:
    """The variables of `names`, and y of them."""
    scope, y = node.scope, node.attr("y")
    found = scope.values.get(y)
    if list(node.proto.input) == list(names) and _alone(node, tensors) and _is_variable(found):
        # What is drawn at random, as for Dropout, must not be drawn again.
        return list(tensors), found
    # New variables even for inputs and constants: nothing else may be computed of them.
    fresh = [node.importer.builder.emit(tensor) for tensor in tensors]
    inner = Scope(scope.opsets, dict(zip(names, fresh)), scope, scope.nodes)
    nodes = _between(scope, names, y)
    if y not in names and not any(y in one.output for one in nodes):
        raise node.refuse(f"no node of its graph makes '{y}' of {list(names)}")
    (result,) = node.importer.run(nodes, [y], inner)
    return fresh, node.emit(node.importer.tensor(result))


def _alone(node: Node, tensors: Sequence[relax.Expr]) -> bool:
    """Whether each input is a variable that has no second name in this graph."""
    values = [value for value in node.scope.values.values() if value is not None]
    return all(map(_is_variable, tensors)) and all(
        sum(other is node.value(index) for other in values) == 1 for index in range(len(tensors))
    )


def _is_variable(value: Value | None) -> TypeGuard[relax.Var]:
    return isinstance(value, relax.Var)


def _between(scope: Scope, names: Sequence[str], y: str) -> list[onnx.NodeProto]:
    """The nodes that make `y`, but neither `names` nor what is there and does not need them."""
    reached = set(names)
    for one in scope.nodes:
        if reached.intersection(support.read(one)):
            reached.update(one.output)
    wanted, kept = {y}, []
    for one in reversed(scope.nodes):
        made = {name for name in one.output if name} - set(names)
        if wanted & made and (made & reached or not made <= set(scope.values)):
            kept.append(one)
            wanted |= support.read(one)
    return kept[::-1]


def _bindings(node: Node, y: relax.Expr, sources: set[relax.Expr]) -> list[Binding]:
    """What the block has between `sources` and `y`, in order."""
    found: list[Binding] = []
    seen, stack = set(sources), [(y, False)]
    while stack:
        variable, done = stack.pop()
        value: Any = node.importer.builder.lookup_binding(variable)
        if done:
            found.append((variable, value))
        elif variable not in seen and value is not None:
            seen.add(variable)
            stack.append((variable, True))
            stack += [(one, False) for one in relax.analysis.free_vars(value)]
    return found
