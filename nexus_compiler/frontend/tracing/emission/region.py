"""One region as a captured graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm import relax, tirx

from nexus_compiler.frontend.graph import CapturedGraph, Source
from nexus_compiler.frontend.tracing.emission import arithmetic, elementwise, movement
from nexus_compiler.frontend.tracing.emission.operation import EMITTERS, Operation
from nexus_compiler.frontend.tracing.nodes import Graph, Node
from nexus_compiler.ir.one_thread import one_thread
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

_FAMILIES = (arithmetic, elementwise, movement)  # importing them fills the table

Binding = tuple[Any, Any]
Differentiator = Callable[[Any, list[Binding], Any, list[Any]], list[Any]]
"""From (block builder, bindings so far, loss, sources) to the gradients, emitted to the block."""


@dataclass(frozen=True)
class Size:
    """An integer that depends on sizes of the leaves: factor * product of symbols + offset."""

    factor: int
    symbols: tuple[int, ...]
    offset: int = 0

    def value(self, symbols: tuple[int, ...]) -> int:
        """The integer for the values of all symbols."""
        found = self.factor
        for symbol in self.symbols:
            found *= symbols[symbol]
        return found + self.offset


@dataclass(frozen=True)
class Pattern:
    """What a region leaves open.

    Attributes:
        shapes: of the leaves; an integer or a Size with one symbol.
        sizes: of the nodes, in the graph's order.
        lifted: positions (in `graph.nodes`) of the constants that are inputs instead.
    """

    shapes: tuple[tuple[int | Size, ...], ...]
    sizes: tuple[tuple[int | Size, ...], ...]
    lifted: frozenset[int] = frozenset()


@dataclass
class _Emission:
    graph: Graph
    pattern: Pattern
    block: Any
    differentiate: Differentiator
    values: dict[Node, Any] = field(default_factory=dict)
    bindings: list[Binding] = field(default_factory=list)
    dims: dict[int, Any] = field(default_factory=dict)

    def size(self, size: int | Size) -> Any:
        if isinstance(size, int):
            return size
        found: Any = size.factor
        for symbol in size.symbols:
            found = found * self.dims.setdefault(symbol, tirx.Var(f"n{symbol}", "int64"))
        return found + size.offset if size.offset else found

    def emit(self, value: Any) -> Any:
        variable = self.block.emit(value)
        self.bindings.append((variable, value))
        return variable

    def node(self, position: int, node: Node) -> None:
        if node.op == "const":
            if node not in self.values:
                self.values[node] = relax.const(node.value, node.dtype.name)
            return
        if node.op == "gradients":
            loss, *sources = (self.values[one] for one in node.inputs)
            self.values[node] = self.differentiate(self.block, self.bindings, loss, sources)
            return
        if node.op == "item":
            self.values[node] = self.values[node.inputs[0]][node.attrs[0]]
            return
        operation = Operation(
            [self.values[one] for one in node.inputs],
            node.attrs,
            [self.size(size) for size in self.pattern.sizes[position]],
            node.dtype.name,
            self.emit,
        )
        self.values[node] = self.emit(EMITTERS[node.op](operation))


@one_thread
def capture(graph: Graph, pattern: Pattern, differentiate: Differentiator) -> CapturedGraph:
    """The region as Relax: the leaves are inputs, then the lifted constants."""
    block = relax.BlockBuilder()
    work = _Emission(graph, pattern, block, differentiate)
    inputs = [*graph.leaves, *(graph.nodes[position] for position in sorted(pattern.lifted))]
    shapes = [*pattern.shapes, *(() for _ in pattern.lifted)]
    specs: list[TensorSpec] = []
    for index, (node, shape) in enumerate(zip(inputs, shapes)):
        dims = [work.size(size) for size in shape]
        work.values[node] = relax.Var(f"x{index}", relax.TensorType(dims, node.dtype.name))
        specs.append(TensorSpec(f"x{index}", node.dtype.name, _dims(dims)))
    with block.function("main", [work.values[node] for node in inputs]):
        with block.dataflow():
            for position, node in enumerate(graph.nodes):
                work.node(position, node)
            results = [work.values[node] for node in graph.outputs]
            output = block.emit_output(relax.Tuple(results))
        block.emit_func_output(output)
    outputs = tuple(
        TensorSpec(f"y{index}", str(result.ty.dtype), _dims(result.ty.shape.values))
        for index, result in enumerate(results)
    )
    signature = Signature((FunctionSpec("main", tuple(specs), outputs),))
    return CapturedGraph(block.get(), signature, {}, Source("trace", "region", _hash(signature)))


def _dims(dims: Any) -> tuple[int | str, ...]:
    return tuple(int(one) if isinstance(one, int | tirx.IntImm) else str(one) for one in dims)


def _hash(signature: Signature) -> str:
    return hashlib.sha256(repr(signature).encode()).hexdigest()


def operators(graph: Graph) -> Mapping[str, int]:
    """How often each operation occurs in a region."""
    found: dict[str, int] = {}
    for node in graph.walk():
        found[node.op] = found.get(node.op, 0) + 1
    return dict(sorted(found.items()))
