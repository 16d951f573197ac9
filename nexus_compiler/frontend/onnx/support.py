"""Which nodes an output needs, and whether all of their operators can be translated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

from nexus_compiler.frontend.onnx import functions, outside
from nexus_compiler.frontend.onnx.nested import graphs
from nexus_compiler.frontend.onnx.registry import handlers, plain_domain
from nexus_compiler.frontend.onnx.values import ELEMENT_TYPES
from nexus_runtime.errors import UnsupportedOperator

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.node import Node


def needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of `nodes`, in their order, on which `outputs` depend."""
    wanted = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= read(node)
    return kept[::-1]


def read(node: onnx.NodeProto) -> set[str]:
    """The names that `node` reads, also those from inside its branches."""
    names = set(node.input)
    for graph in graphs(node):
        names |= {value.name for value in graph.output}
        for inner in graph.node:
            names |= read(inner)
    return names


def check_operators(model: onnx.ModelProto) -> None:
    """Check that all operators that the outputs of `model` need can be translated.

    Raises:
        UnsupportedOperator: some cannot; the message lists all of them.
        CaptureError: a function of the model calls itself.
    """
    opsets = {plain_domain(o.domain): o.version for o in model.opset_import}
    missing: dict[tuple[str, str], list[str]] = {}
    outputs = [value.name for value in model.graph.output]
    nodes = needed(model.graph.node, outputs)
    local = functions.local(model)
    functions.check_recursion(local)
    for node in _missing(nodes, opsets, local, set()):
        label = node.name or next(iter(node.output), "")
        missing.setdefault((plain_domain(node.domain), node.op_type), []).append(label)
    if missing:
        hints = [outside.hint(*key) or _HINT for key in sorted(missing)]
        raise UnsupportedOperator(_listed(missing), hint="; ".join(dict.fromkeys(hints)))


_HINT = (
    "export the model with other operators or another opset, or add a handler in "
    "nexus_compiler/frontend/onnx (one function with @op)"
)


def _missing(
    nodes: Iterable[onnx.NodeProto],
    opsets: Mapping[str, int],
    local: functions.Functions,
    seen: set[tuple[str, str]],
) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        key = plain_domain(node.domain), node.op_type
        if key in local:
            if key not in seen:
                seen.add(key)
                inner = {plain_domain(o.domain): o.version for o in local[key].opset_import}
                yield from _missing(local[key].node, inner, local, seen)
        elif key not in handlers() and not functions.has_body(*key, opsets.get(key[0], 1)):
            yield node
        for graph in graphs(node):
            yield from _missing(graph.node, opsets, local, seen)


def _listed(missing: Mapping[tuple[str, str], Sequence[str]]) -> str:
    lines = [
        f"{f'{domain}::' if domain else ''}{kind} ({len(names)} times, first in node '{names[0]}')"
        if len(names) > 1
        else f"{f'{domain}::' if domain else ''}{kind} (once, in node '{names[0]}')"
        for (domain, kind), names in sorted(missing.items())
    ]
    count = "1 operator" if len(lines) == 1 else f"{len(lines)} operators"
    return f"no translation for {count} of the model: " + "; ".join(lines)


def type_proto(node: Node, index: int) -> onnx.TypeProto:
    """The type of an input as ONNX writes it, for definitions that depend on it."""
    if not node.has(index):
        return onnx.TypeProto()
    numbers = {name: number for number, name in ELEMENT_TYPES.items()}
    shape = [size if isinstance(size, int) else None for size in node.shape(index)]
    return onnx.helper.make_tensor_type_proto(numbers[node.dtype(index)], shape)
