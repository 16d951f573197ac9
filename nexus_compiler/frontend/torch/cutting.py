"""Cuts the operators between two borders out of an exported graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from nexus_compiler.frontend.torch import sizes

_WEIGHTS = {InputKind.PARAMETER, InputKind.BUFFER}
_KEPT = ("val", "nn_module_stack", "stack_trace")


Argument = int | str | sympy.Basic
"""The place of an input, the name of a weight in the layer, or a size."""


@dataclass(frozen=True)
class Cut:
    """A graph of its own.

    Attributes:
        graph: its placeholders stand for inputs and weights.
        arguments: what each placeholder stands for, in order.
    """

    graph: torch.fx.Graph
    arguments: tuple[Argument, ...]

    def weights(self) -> Iterator[tuple[str, torch.fx.Node]]:
        """The placeholders that stand for weights, with their names in the layer."""
        for argument, node in zip(self.arguments, self.graph.nodes):
            if isinstance(argument, str):
                yield argument, node


def cut(program: Any, key: str, names: Mapping[str, str], own: Mapping[str, str]) -> Cut | None:
    """The operators between the borders called `key`; None where they need anything else.

    Args:
        program: an exported program without views and writes, that is, after decomposition.
        key: the last but one argument of both borders.
        names: the first name of each weight, by all that it has.
        own: names of the layer's weights in the layer, by their first names.
    """
    borders = [node for node in program.graph.nodes if is_border(node) and node.args[1] == key]
    if [node.args[2] for node in borders] != [True, False]:
        return None
    enter, leave = borders
    given: dict[torch.fx.Node, Argument] = {user: int(str(user.args[1])) for user in enter.users}
    weights = _weights(program, names, own)
    inside: set[torch.fx.Node] = set()
    waiting = list(leave.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in inside or node in given:
            continue
        if node in weights:
            given[node] = weights[node]
        elif isinstance(size := sizes.plain(node.meta.get("val")), sympy.Basic):
            given[node] = size  # PyTorch takes it from wherever it saw this size first
        elif node.op != "call_function" or is_border(node):
            return None  # a constant, a nested graph, another input
        else:
            inside.add(node)
            waiting += node.all_input_nodes
    known = {symbol for node in enter.all_input_nodes for symbol in _late(node)}
    if any(not _late(node) <= known for node in [*inside, *given]):
        return None  # sizes that depend on data are other symbols in every layer
    return _copied(program.graph, leave, given, inside)


def is_border(node: torch.fx.Node) -> bool:
    """Whether a node is a border of a layer."""
    return node.target is torch.ops.nexus.border.default


def _weights(
    program: Any, names: Mapping[str, str], own: Mapping[str, str]
) -> dict[torch.fx.Node, str]:
    """The placeholders of the layer's weights that nothing writes to."""
    written = {
        spec.target
        for spec in program.graph_signature.output_specs
        if spec.kind in {OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION}
    }
    nodes = (node for node in program.graph.nodes if node.op == "placeholder")
    found: dict[torch.fx.Node, str] = {}
    for node, spec in zip(nodes, program.graph_signature.input_specs):
        name = names.get(spec.target or "", "")
        if spec.kind in _WEIGHTS and name in own and spec.target not in written:
            found[node] = own[name]
    return found


def _late(node: torch.fx.Node) -> set[Any]:
    """The symbols of sizes that depend on data, in the result of a node."""
    found: set[Any] = set()
    for value in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(value, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool):
            found |= free_unbacked_symbols(value)
    return found


def _copied(
    graph: torch.fx.Graph,
    leave: torch.fx.Node,
    given: Mapping[torch.fx.Node, Argument],
    inside: set[torch.fx.Node],
) -> Cut:
    """A graph of the nodes `inside`, in their order, which does not keep the program alive."""
    fresh = torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in given:
        copies[node] = fresh.placeholder(node.name)
        copies[node].meta = _meta(node)
    for node in graph.nodes:
        if node in inside:
            copies[node] = fresh.node_copy(node, copies.__getitem__)
            copies[node].meta = _meta(node)
    fresh.output([copies[node] for node in leave.args[0]])  # type: ignore[union-attr]
    return Cut(fresh, tuple(given.values()))


def _meta(node: torch.fx.Node) -> dict[str, Any]:
    return {name: node.meta[name] for name in _KEPT if name in node.meta}
