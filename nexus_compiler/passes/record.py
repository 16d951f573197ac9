"""The regions of a graph as plain data: what an artifact tells of itself, and plans compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from tvm import relax
from tvm.ir import Op

from nexus_compiler.ir.fingerprint import Factor
from nexus_compiler.ir.region import INPUTS, Region
from nexus_compiler.ir.sizes import text
from nexus_compiler.passes.regions import Outlined
from nexus_runtime.listing import Listing
from nexus_runtime.signature import Signature


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operator: its name, its attributes, what it reads and makes."""

    operator: str
    attributes: dict[str, str]
    reads: tuple[str, ...]
    makes: str


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a region stands.

    Attributes:
        region: its digest.
        origin: the modules of the model whose weights it uses; without any, those before it.
        location: file and line of these, where the frontend tells.
    """

    region: str
    origin: str
    location: str = ""


class Record(Listing, frozen=True):
    """All regions of a graph for one target.

    Attributes:
        places: every region in every place, in the order of the graph.
        regions: the operators of each, by digest.
        factors: what else the kernels follow from.
    """

    of: ClassVar[str] = "regions"

    places: tuple[Place, ...]
    regions: dict[str, tuple[Node, ...]]
    factors: dict[str, str]


def record(
    graph: Outlined,
    signature: Signature,
    factors: Sequence[Factor],
    locations: Mapping[str, str],
    known: dict[str, tuple[Node, ...]] | None = None,
) -> Record:
    """The record of an outlined graph.

    Args:
        graph: cut into regions.
        signature: names the weights.
        factors: what a region's kernels follow from beside the region.
        locations: file and line by the name of a weight.
        known: nodes of regions by digest that were read before; it grows.
    """
    known = {} if known is None else known
    names = {spec.name: _weights(graph, spec.name, spec.parameters) for spec in signature.functions}
    places: list[Place] = []
    regions: dict[str, tuple[Node, ...]] = {}
    before = ""
    for place in graph.places:
        region = graph.regions[place.region]
        called = names.get(place.function, {})
        weights = [called[name] for name in place.weights if name in called]
        origin = ", ".join(dict.fromkeys(_module(name) for name in weights))
        before = origin or before
        location = next((locations[name] for name in weights if name in locations), "")
        places.append(Place(region.digest, origin or f"behind {before or 'the inputs'}", location))
        if region.digest not in known:
            known[region.digest] = nodes(region)
        regions[region.digest] = known[region.digest]
    return Record(tuple(places), regions, dict(factors))


def _weights(graph: Outlined, function: str, parameters: Sequence[str]) -> dict[str, str]:
    """The names of the weights of a function by those that TVM gave its parameters."""
    params = graph.module[function].params
    own = params[len(params) - len(parameters) :]
    return {str(variable.name): name for variable, name in zip(own, parameters)}


def _module(weight: str) -> str:
    return weight.rpartition(".")[0] or weight


def nodes(region: Region) -> tuple[Node, ...]:
    """The operators of `region`, as text that can be compared."""
    function = region.function
    names: dict[relax.Var, str] = {}
    for place, variable in enumerate(function.params):
        kind = "input" if place < int(function.attrs[INPUTS]) else "weight"
        names[variable] = f"{kind} {_type(variable.ty)}"
    found: list[Node] = []
    bindings = [b for block in function.body.blocks for b in block.bindings][:-1]
    for place, binding in enumerate(bindings):
        value = binding.value
        names[binding.var] = f"%{place}"
        if isinstance(value, relax.TupleGetItem):
            reads = (names[value.tuple_value],)
            found.append(Node("part", {"index": str(value.index)}, reads, _type(binding.var.ty)))
            continue
        reads = tuple(_operand(one, names) for one in value.args)
        operator = region.operators[place].removeprefix("relax.")
        attributes = _attributes(value.attrs) if isinstance(value.op, Op) else {}
        found.append(Node(operator, attributes, reads, _type(binding.var.ty)))
    return tuple(found)


def _attributes(attrs: Any) -> dict[str, str]:
    if attrs is None:
        return {}
    fields = type(attrs).__tvm_ffi_type_info__.fields
    return {field.name: _plain(getattr(attrs, field.name)) for field in fields}


def _operand(value: Any, names: Mapping[relax.Var, str]) -> str:
    if isinstance(value, relax.Tuple):
        return f"({', '.join(_operand(one, names) for one in value.fields)})"
    if isinstance(value, relax.ShapeExpr):
        return str([text(size) for size in value.values])
    return names[value] if value in names else _plain(value)


def _plain(value: Any) -> str:
    # TVM's objects tell themselves in a subclass of `str`, which cannot be encoded.
    return str(str(value))


def _type(ty: Any) -> str:
    if isinstance(ty, relax.TupleType):
        return f"({', '.join(_type(field) for field in ty.fields)})"
    return f"{ty.dtype}[{', '.join(str(text(size)) for size in ty.shape.values)}]"
