"""Regions: what the store knows a piece of a graph by.

A region is a cluster of nodes (`passes/cluster.py`) as a function of its own: what is computed at
run time comes first in its parameters, weights follow, and names are gone. Two clusters with the
same *signature* are the same region; signatures hold for one process, digests for all.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tvm import IRModule, relax, tirx
from tvm.ir import GlobalVar

from nexus_compiler.ir import canonical
from nexus_compiler.ir.dataflow import (
    Interner,
    Key,
    Node,
    Parts,
    Size,
    label,
    nameless,
    sizes_in,
)

INPUTS = "nexus.inputs"
"""The attribute of a function that tells how many of its parameters are inputs; weights follow."""


@dataclass(frozen=True, eq=False)
class Region:
    """A region, once for all places where it stands.

    Attributes:
        function: takes inputs and then weights, returns a tuple.
        operators: the operators of its nodes, in canonical order.
        parts: functions that it calls, each of which becomes one kernel.
    """

    function: relax.Function
    operators: tuple[str, ...]
    parts: Mapping[GlobalVar, relax.Function] = field(default_factory=dict[Any, Any])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form, the same in every process."""
        return canonical.digest(self.function)

    @property
    def text(self) -> str:
        """Its operators, for people."""
        return " ".join(name.removeprefix("relax.") for name in self.operators)

    @cached_property
    def variable(self) -> GlobalVar:
        """What calls it; TVM tells functions apart by this object, not by its name."""
        variable = GlobalVar(f"region_{self.digest[:32]}")
        relax.expr._update_type(variable, self.function.ty)
        return variable


@dataclass(frozen=True, eq=False)
class Occurrence:
    """A place where a region stands: what it reads and makes there, in the order of the region."""

    region: Region
    inputs: tuple[relax.Var, ...]
    weights: tuple[relax.Var, ...]
    outputs: tuple[relax.Var, ...]


_Order = tuple[Region, list[int], list[int], list[int]]
"""A region, and the places of its inputs, weights and outputs in the order of the model."""


@dataclass
class RegionTable:
    """All regions that a process has met, by signature."""

    interner: Interner = field(default_factory=Interner)
    regions: dict[Key | None, Region] = field(default_factory=dict[Key | None, Region])
    _orders: dict[Key, _Order] = field(default_factory=dict[Key, "_Order"])
    _parts: dict[int, GlobalVar] = field(default_factory=dict[int, GlobalVar])

    def occurrence(
        self,
        nodes: Sequence[Node],
        weights: set[relax.Var],
        used: set[relax.Var],
        parts: Parts,
    ) -> Occurrence | None:
        """The region that `nodes` are, and what it reads and makes here.

        Args:
            nodes: a cluster; none opaque.
            weights: variables from outside that are known when weights are loaded.
            used: variables that are read outside of `nodes`.
            parts: functions that nodes may call.

        Returns:
            None where the nodes need a size that no tensor from outside tells.
        """
        met = ClusterSignature(nodes, weights, used)
        if met.key is None:
            return None
        if met.key not in self._orders:
            ordered = _in_canonical_order(nodes, weights, used, self.interner)
            signed = ClusterSignature(ordered, weights, used)
            if signed.key not in self.regions:
                self.regions[signed.key] = self._region(ordered, signed, parts)
            self._orders[met.key] = (
                self.regions[signed.key],
                _places(signed.inputs, met.inputs),
                _places(signed.weights, met.weights),
                _places(signed.outputs, met.outputs),
            )
        region, inputs, held, outputs = self._orders[met.key]
        return Occurrence(
            region,
            tuple([met.inputs[place] for place in inputs]),
            tuple([met.weights[place] for place in held]),
            tuple([met.outputs[place] for place in outputs]),
        )

    def _region(self, nodes: Sequence[Node], signed: ClusterSignature, parts: Parts) -> Region:
        function = as_function(
            [*signed.inputs, *signed.weights], [node.binding for node in nodes], signed.outputs
        )
        own: dict[GlobalVar, relax.Function] = {}
        names: dict[GlobalVar, GlobalVar] = {}
        for node in nodes:
            callee = getattr(node.binding.value, "op", None)
            if callee in parts:
                # What it is called must not count: one name for equal parts.
                names[callee] = self._part(node.attributes, parts[callee])
                own[names[callee]] = parts[callee]
        if names:
            function = Renamer(names).visit_expr(function)
        operators = tuple([str(node.operator) for node in nodes])
        return Region(function.with_attr(INPUTS, len(signed.inputs)), operators, own)

    def _part(self, number: int, function: relax.Function) -> GlobalVar:
        if number not in self._parts:
            variable = GlobalVar(f"part_{canonical.digest(function)[:32]}")
            relax.expr._update_type(variable, function.ty)
            self._parts[number] = variable
        return self._parts[number]


def _places(variables: Sequence[relax.Var], within: Sequence[relax.Var]) -> list[int]:
    numbers = {variable: place for place, variable in enumerate(within)}
    return [numbers[variable] for variable in variables]


@relax.expr_functor.mutator
class Renamer(relax.PyExprMutator):
    """Calls functions by other variables."""

    def __init__(
        self, names: Mapping[GlobalVar, GlobalVar], module: IRModule | None = None
    ) -> None:
        super().__init__(module)
        self._names = names

    def visit_global_var_(self, variable: GlobalVar) -> GlobalVar:
        """As `PyExprMutator`."""
        return self._names.get(variable, variable)


def _in_canonical_order(
    nodes: Sequence[Node], weights: set[relax.Var], used: set[relax.Var], interner: Interner
) -> Sequence[Node]:
    """Each node behind what it reads; of those that could come next, that of the lowest rank.

    A rank follows from what a node computes and from who reads it, so that the order of
    independent lines of the model does not count. Its details come last in it: where one is
    edited, the others keep their order, and the edit can be named.
    """
    if len(nodes) == 1:
        return nodes
    rank = _ranks(nodes, weights, used, interner)
    made = {node.makes: node for node in nodes}
    waits: dict[int, int] = {}
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        sources = {made[v].position for v in node.reads if v in made}
        waits[node.position] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(node)
    ready = [(rank[n.makes], n.position, n) for n in nodes if not waits[n.position]]
    heapq.heapify(ready)
    ordered: list[Node] = []
    while ready:
        node = heapq.heappop(ready)[2]
        ordered.append(node)
        for reader in readers.get(node.position, ()):
            waits[reader.position] -= 1
            if not waits[reader.position]:
                heapq.heappush(ready, (rank[reader.makes], reader.position, reader))
    return ordered


def _ranks(
    nodes: Sequence[Node], weights: set[relax.Var], used: set[relax.Var], interner: Interner
) -> dict[relax.Var, Key]:
    """What each node is ordered by: its operator, the operators around it, then everything."""
    plain: dict[relax.Var, Key] = {}
    full: dict[relax.Var, Key] = {}
    for node in nodes:
        code = node.attributes
        if node.operator != "tuple_get_item":
            code = interner.code(code)
        plain[node.makes] = (node.operator, node.makes in used)
        parts = (nameless(node.operands), code, nameless(node.kind))
        full[node.makes] = (*plain[node.makes], *parts)
    read = {v: kind for node in nodes for v, kind in zip(node.reads, node.sources)}
    outside = {v: kind for v, kind in read.items() if v not in full}
    coarse = _labels(nodes, plain, {v: int(v in weights) for v in outside})
    told = {v: label((nameless(kind), v in weights)) for v, kind in outside.items()}
    fine = _labels(nodes, full, told)
    return {v: (key[0], coarse[v], fine[v]) for v, key in plain.items()}


def _labels(
    nodes: Sequence[Node], own: Mapping[relax.Var, Key], outside: Mapping[relax.Var, int]
) -> dict[relax.Var, int]:
    """A number for each variable that nodes read or make, whatever the order of `nodes`.

    Nodes are told apart by what they read, then by who reads them, twice (after Weisfeiler and
    Leman, "The reduction of a graph to canonical form", 1968): two products of one input are alike
    until one sees that different functions follow.
    """
    labels = dict(outside)
    for _ in range(2):
        for node in nodes:
            reads = [labels[v] for v in node.reads]
            labels[node.makes] = label((*own[node.makes], *reads))
        seen: dict[relax.Var, list[tuple[int, int]]] = {}
        for node in reversed(nodes):
            variable = node.makes
            labels[variable] = label((labels[variable], sorted(seen.get(variable, ()))))
            for place, source in enumerate(node.reads):
                seen.setdefault(source, []).append((labels[variable], place))
        for variable in outside:
            labels[variable] = label((labels[variable], sorted(seen[variable])))
    return labels


class ClusterSignature:
    """A cluster without names: variables are numbers in the order in which they are met."""

    def __init__(
        self, nodes: Sequence[Node], weights: set[relax.Var], used: set[relax.Var]
    ) -> None:
        self.inputs: list[relax.Var] = []
        self.weights: list[relax.Var] = []
        self.kinds: dict[relax.Var, Key] = {}
        self.outputs = [node.makes for node in nodes if node.makes in used]
        self._sizes: dict[tirx.Var, int] = {}
        self._known = weights
        self._names: dict[relax.Var, Key] = {}
        rows = [self._row(place, node) for place, node in enumerate(nodes)]
        outputs = tuple([self._names[variable] for variable in self.outputs])
        told = {
            size.variables[0]
            for kind in (self.kinds.values() if self._sizes else ())
            for size in sizes_in(kind)
            if size.text == "{0}"
        }
        closed = all(variable in told for variable in self._sizes)
        self.key: Key | None = (*rows, outputs) if closed else None

    @property
    def is_open(self) -> bool:
        """Whether any size in it is told by a run."""
        return bool(self._sizes)

    def _row(self, place: int, node: Node) -> Key:
        # Most nodes have no open sizes: nothing in them has to be numbered.
        numbered = self._numbered if node.sizes else lambda part: part
        reads = tuple([self._read(v, kind) for v, kind in zip(node.reads, node.sources)])
        row = (node.operator, node.attributes, numbered(node.operands))
        self._names[node.makes] = ("n", place)
        return (*row, numbered(node.kind), reads)

    def _read(self, variable: relax.Var, kind: Key) -> Key:
        name = self._names.get(variable)
        if name is not None:
            return name
        own, letter = (self.weights, "w") if variable in self._known else (self.inputs, "i")
        self.kinds[variable] = kind
        self._names[variable] = (letter, len(own))
        own.append(variable)
        # What is outside is described where it is met first.
        return (letter, len(own) - 1, self._numbered(kind))

    def _numbered(self, part: Any) -> Any:
        if isinstance(part, Size):
            numbers = [self._sizes.setdefault(v, len(self._sizes)) for v in part.variables]
            return (part.text, *numbers)
        if isinstance(part, tuple):
            return tuple([self._numbered(one) for one in part])
        return part


def as_function(
    outside: Sequence[relax.Var], bindings: Sequence[relax.Binding], outputs: Sequence[relax.Var]
) -> relax.Function:
    """A function of the variables `outside` that runs `bindings` and returns a tuple.

    It has variables of its own throughout.
    """
    result = relax.Var("result", relax.TupleType([variable.ty for variable in outputs]))
    last = relax.VarBinding(result, relax.Tuple(list(outputs)))
    body = relax.SeqExpr([relax.DataflowBlock([*bindings, last])], result)
    # Variables of a dataflow block cannot be parameters.
    fresh = [relax.Var(f"p{place}", variable.ty) for place, variable in enumerate(outside)]
    open_ = relax.Function(list(outside), body, result.ty)
    closed = open_.bind_params(dict(zip(outside, fresh))) if outside else open_
    return relax.utils.copy_with_new_vars(relax.Function(fresh, closed.body, result.ty))


def call(
    function: GlobalVar, arguments: Sequence[relax.Var], outputs: Sequence[relax.Var]
) -> list[relax.Binding]:
    """Bindings that call `function`, which returns a tuple, and give `outputs` its parts."""
    value = relax.Call(function, list(arguments))
    kind = relax.TupleType([variable.ty for variable in outputs])
    relax.expr._update_type(value, kind)
    parts = relax.DataflowVar("parts", kind)
    made: list[relax.Binding] = [relax.VarBinding(parts, value)]
    for place, variable in enumerate(outputs):
        made.append(relax.VarBinding(variable, relax.TupleGetItem(parts, place)))
    return made
